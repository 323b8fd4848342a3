"""Where benchmarks and tests find recorded traces: `--traces DIR`, the variable SPLITVLM_TRACES, or ../shared/traces.

docs/guide/measure.md says where recordings are to be had.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from splitvlm.errors import UsageError

VARIABLE = "SPLITVLM_TRACES"
USUAL = Path(__file__).parents[2] / "shared" / "traces"
_ADVICE = (
    f"Name a folder of *.up files by --traces DIR or {VARIABLE}; the Mahimahi project (github.com/ravinet/mahimahi, "
    "folder traces) has recorded ones."
)


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--traces DIR` to a benchmark's options."""
    parser.add_argument("--traces", type=Path, metavar="DIR", help=f"folder of recorded traces; else {VARIABLE}")


def recorded_traces(folder: Path | None = None) -> list[str]:
    """Returns the names of the recorded uplinks (`*.up`) in the first of: `folder`, the variable's, the usual one.

    Says so where the usual folder has none. Raises UsageError where a folder that somebody named has none.
    """
    named = folder or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    files = sorted(map(str, (named or USUAL).expanduser().glob("*.up")))
    if not files and named is not None:
        raise UsageError(f"The folder {named} has no recorded trace.", advice=_ADVICE)
    if not files:
        print(f"No recorded trace was found, so that only synthetic ones are used. {_ADVICE}")
    return files
