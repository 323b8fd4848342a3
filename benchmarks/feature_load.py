"""The load of the cloud node's benchmarks: a closed loop of devices that send recorded features at `tokens`."""

from __future__ import annotations

import argparse
from pathlib import Path

from splitvlm.domain import Plan
from splitvlm.tools.load.objective import ServiceObjective
from splitvlm.tools.load.run import LoadSettings
from splitvlm.tools.load.schedule import AnswerLengths

PLAN = Plan.parse("tokens/lossless")
RECORDINGS = 4


def feature_load(
    options: argparse.Namespace,
    devices: int,
    cloud: str,
    authority: Path,
    *,
    recordings: int = RECORDINGS,
    dtype: str = "float32",
) -> LoadSettings:
    """Returns the load on the node at the address `cloud`, by the options `model`, `answers`, `tokens` and `threads`."""
    return LoadSettings(
        model=options.model,
        plan=PLAN,
        devices=devices,
        requests=options.answers * devices,
        lengths=AnswerLengths(options.tokens, options.tokens),
        objective=ServiceObjective({}),
        recordings=recordings,
        threads=options.threads,
        dtype=dtype,
        cloud=cloud,
        authority=authority,
    )
