"""What a model's boundaries were calibrated with, as one safetensors file beside its weights.

`tokens.mean` [C], `tokens.analysis` and `tokens.synthesis` [C, C] (float16): the transform at the cut `tokens`.
`tokens.shape`: of the tensor, without the channels, where it never varies; `tokens.klt2.centres` [C, 2] (klt.py).
`tokens.klt2.*`, for each level: its density's whole numbers (density.py), matrices one after another. The file's SHA-256
is part of the codec's hash, so that two nodes with different calibrations refuse each other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from splitvlm.codec.density import HIDDEN_UNITS, MAX_COLUMNS, MAX_REACH, NEIGHBOURS, Density
from splitvlm.codec.klt import Basis, Transform
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.domain import Cut
from splitvlm.errors import UsageError

FILE = "calibration.safetensors"
MOST_TOKENS = 1 << 20  # of a boundary: no known model has as many
Tensors = dict[str, np.ndarray]  # type: ignore[type-arg]


def write(path: Path, bases: Mapping[Cut, Basis]) -> None:
    tensors: Tensors = {}
    for cut, basis in bases.items():
        tensors[f"{cut}.shape"] = np.array(basis.shape, np.int32)
        tensors[f"{cut}.mean"] = basis.transform.mean
        tensors[f"{cut}.analysis"] = basis.transform.analysis.astype(np.float16)
        tensors[f"{cut}.synthesis"] = basis.transform.synthesis.astype(np.float16)
        for level, density in basis.densities.items():
            tensors[f"{cut}.{level}.centres"] = basis.centres[level].astype(np.float16)
            tensors |= {f"{cut}.{level}.{name}": value for name, value in _stored(density).items()}
    save_file(tensors, path)


def read(path: Path) -> tuple[dict[Cut, Basis], str]:
    """The bases, and the file's hex SHA-256. Raises UsageError."""
    data = path.read_bytes()
    try:
        tensors = load(data)
        cuts = sorted({name.partition(".")[0] for name in tensors})
        return {Cut.parse(cut): _basis(tensors, cut) for cut in cuts}, hashlib.sha256(data).hexdigest()
    except (SafetensorError, KeyError, ValueError) as error:
        raise UsageError(f"{path} is no calibration.", advice="Make it again: `splitvlm calibrate MODEL`.") from error


def _basis(tensors: Tensors, cut: str) -> Basis:
    mean, analysis, synthesis = (
        tensors[f"{cut}.{name}"].astype(np.float32) for name in ("mean", "analysis", "synthesis")
    )
    square = (len(mean), len(mean))
    if not (
        analysis.shape == synthesis.shape == square and np.isfinite(analysis).all() and np.isfinite(synthesis).all()
    ):
        raise ValueError(cut)
    centres = {level: tensors[f"{cut}.{level}.centres"].astype(np.float32) for level in KLT_STEPS}
    if not all(one.shape == (len(mean), 2) and np.isfinite(one).all() for one in centres.values()):
        raise ValueError(cut)
    densities = {level: _density(tensors, f"{cut}.{level}") for level in KLT_STEPS}
    shape = tuple(tensors[f"{cut}.shape"].tolist())
    if any(size < 1 for size in shape) or math.prod(shape) > MOST_TOKENS:
        raise ValueError(cut)
    return Basis(Transform(mean, analysis, synthesis), densities, centres, shape)


def _stored(density: Density) -> Tensors:
    return {
        "stride": np.array([density.stride], np.int32),
        "reach": density.reach.astype(np.uint8),
        "first": _joined(density.first, np.int8),
        "first_bias": density.first_bias.astype(np.int32),
        "second": _joined(density.second, np.int8),
        "second_bias": _joined(density.second_bias, np.int32),
        "shifts": density.shifts.astype(np.int8),
        "band_reach": np.array([len(weights) // 2 - 1 for weights in density.bands], np.uint8),
        "bands": _joined(density.bands, np.uint16),
    }


def _joined(parts: tuple[np.ndarray, ...], dtype: type) -> np.ndarray:  # type: ignore[type-arg]
    return np.concatenate([np.zeros(0, np.float32), *(part.reshape(-1) for part in parts)]).astype(dtype)


def _density(tensors: Tensors, prefix: str) -> Density:
    """Raises KeyError, and ValueError for sizes that do not fit each other."""
    names = ("stride", "reach", "first", "second", "second_bias", "shifts", "band_reach", "bands")
    of = {name: tensors[f"{prefix}.{name}"] for name in names}
    reach = of["reach"].astype(np.int64)
    columns = len(reach)
    first_bias = tensors[f"{prefix}.first_bias"].astype(np.float32).reshape(columns, HIDDEN_UNITS)
    if (
        columns > MAX_COLUMNS
        or reach.max(initial=0) > MAX_REACH
        or not 1 <= int(of["stride"][0]) < 2**16
        or not of["bands"].all()
    ):
        raise ValueError(prefix)
    inputs = [NEIGHBOURS * column for column in range(columns)]
    symbols = (2 * reach + 2).tolist()
    return Density(
        stride=int(of["stride"][0]),
        reach=reach,
        first=_divided(of["first"], [(size, HIDDEN_UNITS) for size in inputs]),
        first_bias=first_bias,
        second=_divided(of["second"], [(HIDDEN_UNITS, size) for size in symbols]),
        second_bias=_divided(of["second_bias"], [(size,) for size in symbols]),
        shifts=of["shifts"].astype(np.int64).reshape(columns, 2),
        bands=_divided(of["bands"], [(2 * reach + 2,) for reach in of["band_reach"].tolist()]),
    )


def _divided(joined: np.ndarray, shapes: list[tuple[int, ...]]) -> tuple[np.ndarray, ...]:  # type: ignore[type-arg]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    if len(joined) != (int(ends[-1]) if len(ends) else 0):
        raise ValueError("a matrix has another size")
    parts = np.split(joined.astype(np.float32), ends[:-1]) if shapes else []
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
