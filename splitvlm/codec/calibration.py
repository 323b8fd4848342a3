"""What a model's boundaries were calibrated with, as one safetensors file beside its weights.

`tokens.mean` [C], `tokens.analysis` and `tokens.synthesis` [C, C] (float16): the basis at the cut `tokens`. The file's SHA-256
is part of the codec's hash, so that two nodes with different calibrations refuse each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from splitvlm.codec.klt import Basis
from splitvlm.domain import Cut
from splitvlm.errors import UsageError

FILE = "calibration.safetensors"


def write(path: Path, bases: Mapping[Cut, Basis]) -> None:
    tensors = {}
    for cut, basis in bases.items():
        tensors[f"{cut}.mean"] = basis.mean
        tensors[f"{cut}.analysis"] = basis.analysis.astype(np.float16)
        tensors[f"{cut}.synthesis"] = basis.synthesis.astype(np.float16)
    save_file(tensors, path)


def read(path: Path) -> tuple[dict[Cut, Basis], str]:
    """The bases, and the file's hex SHA-256. Raises UsageError."""
    data = path.read_bytes()
    try:
        tensors = load(data)
        cuts = sorted({name.rpartition(".")[0] for name in tensors})
        return {Cut.parse(cut): _basis(tensors, cut) for cut in cuts}, hashlib.sha256(data).hexdigest()
    except (SafetensorError, KeyError, ValueError) as error:
        raise UsageError(f"{path} is no calibration.", advice="Make it again: `splitvlm calibrate MODEL`.") from error


def _basis(tensors: Mapping[str, np.ndarray], cut: str) -> Basis:  # type: ignore[type-arg]
    mean, analysis, synthesis = (
        tensors[f"{cut}.{name}"].astype(np.float32) for name in ("mean", "analysis", "synthesis")
    )
    square = (len(mean), len(mean))
    if not (
        analysis.shape == synthesis.shape == square and np.isfinite(analysis).all() and np.isfinite(synthesis).all()
    ):
        raise ValueError(cut)
    return Basis(mean, analysis, synthesis)
