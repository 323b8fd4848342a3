"""Times every back end that can run an exported stage on this device, and says which is the fastest and why not the others.

The order of back ends depends on the machine, so it is measured there. Each is opened alone: a device may not hold two.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splitvlm.backends.catalogue import candidates, open_stage
from splitvlm.backends.stage import PIXELS, Precision, TileStage
from splitvlm.errors import UsageError

ROUNDS = 5  # after one that warms up; the least time counts, which other work cannot lengthen
HOPELESS = 3.0  # times the fastest so far: such a back end is not asked again

# In which floating-point precisions a stage of that precision may compute. int8 and int4 are in the file: the rest may round.
COMPUTES_IN: Mapping[str, tuple[Precision, ...]] = {
    "float32": ("float32",),
    "bfloat16": ("bfloat16", "float32"),
    "int8": ("bfloat16", "float32"),
    "int4": ("bfloat16", "float32"),
}


@dataclass(frozen=True, slots=True)
class TimedBackend:
    """Holds how long one back end takes for a tile; `reason` says why it has no time."""

    backend: str
    precision: Precision
    tile_s: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """Holds the fastest back end of a stage on this device, and what all of them took."""

    backend: str
    precision: Precision
    tile_s: float
    timed: tuple[TimedBackend, ...]

    @property
    def reason(self) -> str:
        """Returns the choice and what it was chosen over, in a line."""
        slower = sorted((entry.tile_s, entry) for entry in self.timed if entry.tile_s and entry.tile_s > self.tile_s)
        others = ", ".join(f"{_named(entry)} {1e3 * tile_s:.1f} ms" for tile_s, entry in slower)
        chosen = f"{self.backend} in {self.precision}, {1e3 * self.tile_s:.1f} ms a tile"
        return f"{chosen}; {others}" if others else f"{chosen}, the only one here"


def fastest_backend(path: Path, stage_precision: str, *, threads: int | None) -> BackendChoice:
    """Times the back ends that open the file, one after another. Raises UsageError where none can run it here."""
    timed: list[TimedBackend] = []
    for entry in candidates(path):
        if not entry.here:
            timed.append(TimedBackend(entry.backend, "float32", None, entry.reason))
        for precision in COMPUTES_IN.get(stage_precision, ("float32",)):
            if precision in entry.precisions:
                timed.append(_timed(path, entry.backend, precision, threads, _least(timed)))
    return chosen(timed)


def chosen(timed: Sequence[TimedBackend]) -> BackendChoice:
    """Returns the fastest of what was timed. Raises UsageError where nothing has a time."""
    ran = [(entry.tile_s, entry) for entry in timed if entry.tile_s is not None]
    if not ran:
        reasons = "; ".join(f"{_named(entry)}: {entry.reason}" for entry in timed) or "none is known for such a file"
        raise UsageError(f"No back end runs this stage here: {reasons}.", advice="pip install 'splitvlm[onnxruntime]'")
    tile_s, fastest = min(ran, key=lambda pair: pair[0])
    return BackendChoice(fastest.backend, fastest.precision, tile_s, tuple(timed))


def tile_seconds(stage: TileStage, rounds: int = ROUNDS, hopeless_s: float = float("inf")) -> float:
    """Returns the least seconds of a tile; after a first run that takes more than `hopeless_s`, those of that run."""
    pixels = np.random.default_rng(0).standard_normal((1, 3, *stage.shape.edge_px)).astype(np.float32)
    stage.run({PIXELS: pixels})  # warms up
    took_s = []
    for _ in range(rounds):
        began_s = time.perf_counter()
        stage.run({PIXELS: pixels})
        took_s.append(time.perf_counter() - began_s)
        if took_s[0] > hopeless_s:
            break
    return min(took_s)


def _timed(path: Path, backend: str, precision: Precision, threads: int | None, least_s: float) -> TimedBackend:
    try:
        stage = open_stage(path, backend, threads=threads, precision=precision)
        return TimedBackend(backend, precision, tile_seconds(stage, hopeless_s=HOPELESS * least_s))
    except UsageError as error:
        return TimedBackend(backend, precision, None, error.sentence.rstrip("."))


def _least(timed: Sequence[TimedBackend]) -> float:
    return min((entry.tile_s for entry in timed if entry.tile_s is not None), default=float("inf"))


def _named(entry: TimedBackend) -> str:
    return f"{entry.backend} in {entry.precision}"
