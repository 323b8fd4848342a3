"""What a model's boundaries were calibrated with, as one safetensors file beside its weights.

`tokens.mean` [C], `tokens.vectors` [C, C] (float16) and `tokens.scale` []: the basis at the cut `tokens`. The file's SHA-256 is
part of the codec's hash, so that two nodes with different calibrations refuse each other.
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
        tensors[f"{cut}.vectors"] = basis.vectors.astype(np.float16)
        tensors[f"{cut}.scale"] = np.array(basis.scale, np.float32)
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
    mean, vectors = (tensors[f"{cut}.{name}"].astype(np.float32) for name in ("mean", "vectors"))
    scale = float(tensors[f"{cut}.scale"])
    if vectors.shape != (len(mean), len(mean)) or not (np.isfinite(vectors).all() and 0 < scale < np.inf):
        raise ValueError(cut)
    return Basis(mean, vectors, scale)
