"""What a model's boundaries were calibrated with, as one safetensors file beside its weights.

`tokens.mean` [C], `tokens.analysis` and `tokens.synthesis` [C, C] (float16): the transform at the cut `tokens`.
`tokens.shape`: of the tensor, without the channels, where it never varies; `tokens.before`, `tokens.after` and
`tokens.vocabulary`: the prompts' template (prompt.py). For each level, `tokens.klt2.*`: centres [C, 2] (klt.py), its
density's whole numbers (density.py), matrices one after another, and where it has a restorer (restoring.py), that
network's matrices (float16).
The file's SHA-256 is part of the codec's hash, so that two nodes with different calibrations refuse each other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from splitvlm.codec.density import MAX_COLUMNS, MAX_REACH, Density, rows_of, units_of
from splitvlm.codec.grid import PLACES
from splitvlm.codec.klt import Basis, Learned, Transform
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.codec.prompt import LARGEST_VOCABULARY, Template
from splitvlm.codec.restoring import HIDDEN_UNITS as HIDDEN_OF_RESTORER
from splitvlm.codec.restoring import TOKENS as TOKENS_OF_RESTORER
from splitvlm.codec.restoring import Restorer
from splitvlm.domain import Cut
from splitvlm.errors import UsageError

FILE = "calibration.safetensors"
MOST_TOKENS = 1 << 20  # of a boundary: no known model has as many
_PARTS = ("first", "first_bias", "places", "second", "second_bias", "third", "third_bias")
_RESTORER = tuple(f"restorer_{part}" for part in _PARTS)
Tensors = dict[str, np.ndarray]  # type: ignore[type-arg]


def write(path: Path, bases: Mapping[Cut, Basis]) -> None:
    tensors: Tensors = {}
    for cut, basis in bases.items():
        tensors[f"{cut}.shape"] = np.array(basis.shape, np.int32)
        tensors[f"{cut}.mean"] = basis.transform.mean
        tensors[f"{cut}.analysis"] = basis.transform.analysis.astype(np.float16)
        tensors[f"{cut}.synthesis"] = basis.transform.synthesis.astype(np.float16)
        tensors[f"{cut}.before"] = np.array(basis.template.before, np.int32)
        tensors[f"{cut}.after"] = np.array(basis.template.after, np.int32)
        tensors[f"{cut}.vocabulary"] = np.array([basis.template.vocabulary], np.int32)
        for level, learned in basis.levels.items():
            stored = {"centres": learned.centres.astype(np.float16)} | _stored(learned.density)
            if learned.restorer is not None:
                stored |= {f"restorer_{part}": getattr(learned.restorer, part).astype(np.float16) for part in _PARTS}
            tensors |= {f"{cut}.{level}.{name}": value for name, value in stored.items()}
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
    if not (analysis.shape == synthesis.shape == square and _finite(analysis) and _finite(synthesis)):
        raise ValueError(cut)
    levels = {level: _learned(tensors, f"{cut}.{level}", len(mean)) for level in KLT_STEPS}
    shape = tuple(tensors[f"{cut}.shape"].tolist())
    if any(size < 1 for size in shape) or math.prod(shape) > MOST_TOKENS:
        raise ValueError(cut)
    return Basis(Transform(mean, analysis, synthesis), levels, shape, _template(tensors, cut))


def _template(tensors: Tensors, cut: str) -> Template:
    before, after = (tuple(tensors[f"{cut}.{end}"].tolist()) for end in ("before", "after"))
    vocabulary = int(tensors[f"{cut}.vocabulary"][0])
    if not 1 <= vocabulary <= LARGEST_VOCABULARY or not all(0 <= one < vocabulary for one in before + after):
        raise ValueError(cut)
    return Template(before, after, vocabulary)


def _learned(tensors: Tensors, prefix: str, channels: int) -> Learned:
    centres = tensors[f"{prefix}.centres"].astype(np.float32)
    if centres.shape != (channels, 2) or not _finite(centres):
        raise ValueError(prefix)
    density = _density(tensors, prefix)
    if f"{prefix}.{_RESTORER[0]}" not in tensors:
        return Learned(density, centres)
    parts = [tensors[f"{prefix}.{part}"].astype(np.float32) for part in _RESTORER]
    restorer = Restorer(density.stride, density.rows, *parts)
    seen, restored, hidden = restorer.first.shape[1], restorer.columns, HIDDEN_OF_RESTORER
    shapes = [
        (TOKENS_OF_RESTORER, seen, hidden), (hidden,), (PLACES if density.rows else 0, hidden),
        (hidden, hidden), (hidden,), (hidden, restored), (restored,),
    ]  # fmt: skip
    if [part.shape for part in parts] != shapes or max(seen, restored) > channels or not all(map(_finite, parts)):
        raise ValueError(prefix)
    return Learned(density, centres, restorer)


def _finite(array: np.ndarray) -> bool:  # type: ignore[type-arg]
    return bool(np.isfinite(array).all())


def _stored(density: Density) -> Tensors:
    return {
        "grid": np.array([density.stride, density.rows], np.int32),
        "reach": density.reach.astype(np.uint8),
        "first": _joined(density.first, np.int8),
        "first_bias": _joined(density.first_bias, np.int32),
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
    names = ("grid", "reach", "first", "first_bias", "second", "second_bias", "shifts", "band_reach", "bands")
    of = {name: tensors[f"{prefix}.{name}"] for name in names}
    reach = of["reach"].astype(np.int64)
    stride, rows = of["grid"].tolist()
    if (
        len(reach) > MAX_COLUMNS
        or reach.max(initial=0) > MAX_REACH
        or not (1 <= stride < 2**16 and 0 <= rows < 2**16)
        or not of["bands"].all()
    ):
        raise ValueError(prefix)
    units = [units_of(column) for column in range(len(reach))]
    symbols = (2 * reach + 2).tolist()
    return Density(
        stride=stride,
        rows=rows,
        reach=reach,
        first=_divided(of["first"], [(rows_of(column, rows), size) for column, size in enumerate(units)]),
        first_bias=_divided(of["first_bias"], [(size,) for size in units]),
        second=_divided(of["second"], list(zip(units, symbols, strict=True))),
        second_bias=_divided(of["second_bias"], [(size,) for size in symbols]),
        shifts=of["shifts"].astype(np.int64).reshape(len(reach), 2),
        bands=_divided(of["bands"], [(2 * reach + 2,) for reach in of["band_reach"].tolist()]),
    )


def _divided(joined: np.ndarray, shapes: list[tuple[int, ...]]) -> tuple[np.ndarray, ...]:  # type: ignore[type-arg]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    if len(joined) != (int(ends[-1]) if len(ends) else 0):
        raise ValueError("a matrix has another size")
    parts = np.split(joined.astype(np.float32), ends[:-1]) if shapes else []
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
