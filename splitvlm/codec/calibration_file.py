"""Reads and writes the calibration of a model's boundaries, one safetensors file of its bundle.

`tokens.mean` [C], `tokens.analysis` and `tokens.synthesis` [C, C] (float16): the transform at the cut `tokens`.
`tokens.shape`: of the tensor, without the channels, where it never varies; `tokens.before`, `tokens.after` and
`tokens.vocabulary`: the prompts' template (prompt.py). For each level, `tokens.klt2.*`: centres [C, 2] (klt.py), its
entropy model's whole numbers (entropy_model.py), matrices one after another, and where it has a reconstructor
(reconstruction.py), that network's matrices (float16).
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

from splitvlm.codec.entropy_model import MAX_COLUMNS, MAX_REACH, EntropyModel, rows_of, units_of
from splitvlm.codec.grid import PLACES
from splitvlm.codec.klt import Basis, LearnedLevel, Transform
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.codec.prompt import LARGEST_VOCABULARY, Template
from splitvlm.codec.reconstruction import HIDDEN_UNITS as RECONSTRUCTOR_UNITS
from splitvlm.codec.reconstruction import TOKENS as RECONSTRUCTOR_TOKENS
from splitvlm.codec.reconstruction import Reconstructor
from splitvlm.domain import Cut
from splitvlm.errors import UsageError

FILE = "calibration.safetensors"
_EXACT = 1 << 24  # whole numbers up to this are exact in float32, on which both sides' entropy models depend
MOST_TOKENS = 1 << 20  # of a boundary: no known model has as many
_PARTS = ("first", "first_bias", "places", "second", "second_bias", "third", "third_bias")
_RECONSTRUCTOR_TENSORS = tuple(f"restorer_{part}" for part in _PARTS)
Tensors = dict[str, np.ndarray]  # type: ignore[type-arg]


def write(path: Path, bases: Mapping[Cut, Basis]) -> None:
    """Writes the bases of all cuts as one safetensors file: matrices as float16, which `read` restores as float32."""
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
            stored = {"centres": learned.centres.astype(np.float16)} | _stored(learned.entropy_model)
            if learned.reconstructor is not None:
                stored |= {
                    f"restorer_{part}": getattr(learned.reconstructor, part).astype(np.float16) for part in _PARTS
                }
            tensors |= {f"{cut}.{level}.{name}": value for name, value in stored.items()}
    save_file(tensors, path)


def read(path: Path) -> tuple[dict[Cut, Basis], str]:
    """Returns the bases, and the file's hex SHA-256. Raises UsageError, which names the tensor that is wrong."""
    advice = "Make it again: `splitvlm calibrate MODEL`."
    try:
        data = path.read_bytes()
        tensors = load(data)
        cuts = sorted({name.partition(".")[0] for name in tensors})
        return {Cut.parse(cut): _basis(tensors, cut) for cut in cuts}, hashlib.sha256(data).hexdigest()
    except KeyError as error:
        raise UsageError(f"{path} is no calibration: it lacks {error}.", advice=advice) from error
    except UsageError as error:
        raise UsageError(f"{path} is no calibration: {error.sentence}", advice=advice) from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} is no calibration: {error}.", advice=advice) from error


def _taken(tensors: Tensors, name: str, dtype: type, *shape: int) -> np.ndarray:  # type: ignore[type-arg]
    """Returns a tensor of that dtype and shape, -1 for any size, whose numbers are finite. Raises KeyError, ValueError."""
    tensor = tensors[name]
    fits = len(tensor.shape) == len(shape) and all(
        want in (-1, size) for size, want in zip(tensor.shape, shape, strict=True)
    )
    if tensor.dtype != dtype or not fits or not np.isfinite(tensor).all():
        expected = f"{np.dtype(dtype)} {[size if size >= 0 else '*' for size in shape]}"
        raise ValueError(f"{name} is not finite {expected}, but {tensor.dtype} {list(tensor.shape)}")
    return tensor


def _basis(tensors: Tensors, cut: str) -> Basis:
    mean = _taken(tensors, f"{cut}.mean", np.float32, -1)
    channels = len(mean)
    analysis, synthesis = (
        _taken(tensors, f"{cut}.{name}", np.float16, channels, channels).astype(np.float32)
        for name in ("analysis", "synthesis")
    )
    levels = {level: _learned(tensors, f"{cut}.{level}", channels) for level in KLT_STEPS}
    shape = tuple(_taken(tensors, f"{cut}.shape", np.int32, -1).tolist())
    if any(size < 1 for size in shape) or math.prod(shape) > MOST_TOKENS:
        raise ValueError(f"{cut}.shape is {shape}")
    return Basis(Transform(mean, analysis, synthesis), levels, shape, _template(tensors, cut))


def _template(tensors: Tensors, cut: str) -> Template:
    before, after = (tuple(_taken(tensors, f"{cut}.{end}", np.int32, -1).tolist()) for end in ("before", "after"))
    vocabulary = int(_taken(tensors, f"{cut}.vocabulary", np.int32, 1)[0])
    if not 1 <= vocabulary <= LARGEST_VOCABULARY or not all(0 <= token_id < vocabulary for token_id in before + after):
        raise ValueError(f"{cut}.before or {cut}.after has ids that are not in a vocabulary of {vocabulary}")
    return Template(before, after, vocabulary)


def _learned(tensors: Tensors, prefix: str, channels: int) -> LearnedLevel:
    centres = _taken(tensors, f"{prefix}.centres", np.float16, channels, 2).astype(np.float32)
    entropy_model = _entropy_model(tensors, prefix)
    if f"{prefix}.{_RECONSTRUCTOR_TENSORS[0]}" not in tensors:
        return LearnedLevel(entropy_model, centres)
    hidden, rows = RECONSTRUCTOR_UNITS, PLACES if entropy_model.rows else 0
    shapes = (
        (RECONSTRUCTOR_TOKENS, -1, hidden), (hidden,), (rows, hidden), (hidden, hidden), (hidden,), (hidden, -1), (-1,),
    )  # fmt: skip
    parts = [
        _taken(tensors, f"{prefix}.{part}", np.float16, *shape).astype(np.float32)
        for part, shape in zip(_RECONSTRUCTOR_TENSORS, shapes, strict=True)
    ]
    reconstructor = Reconstructor(entropy_model.stride, entropy_model.rows, *parts)
    num_inputs, num_restored = reconstructor.first.shape[1], reconstructor.columns
    if max(num_inputs, num_restored) > channels or reconstructor.third.shape[1] != reconstructor.third_bias.shape[0]:
        raise ValueError(f"{prefix}'s reconstructor has more columns than the transform")
    return LearnedLevel(entropy_model, centres, reconstructor)


def _stored(entropy_model: EntropyModel) -> Tensors:
    return {
        "grid": np.array([entropy_model.stride, entropy_model.rows], np.int32),
        "reach": entropy_model.reach.astype(np.uint8),
        "first": _joined(entropy_model.first, np.int8),
        "first_bias": _joined(entropy_model.first_bias, np.int32),
        "second": _joined(entropy_model.second, np.int8),
        "second_bias": _joined(entropy_model.second_bias, np.int32),
        "shifts": entropy_model.shifts.astype(np.int8),
        "band_reach": np.array([len(weights) // 2 - 1 for weights in entropy_model.bands], np.uint8),
        "bands": _joined(entropy_model.bands, np.uint16),
    }


def _joined(parts: tuple[np.ndarray, ...], dtype: type) -> np.ndarray:  # type: ignore[type-arg]
    return np.concatenate([np.zeros(0, np.float32), *(part.reshape(-1) for part in parts)]).astype(dtype)


def _entropy_model(tensors: Tensors, prefix: str) -> EntropyModel:
    """Raises KeyError, and ValueError for sizes that do not fit each other."""
    stride, rows = _taken(tensors, f"{prefix}.grid", np.int32, 2).tolist()
    reach = _taken(tensors, f"{prefix}.reach", np.uint8, -1).astype(np.int64)
    shifts = _taken(tensors, f"{prefix}.shifts", np.int8, len(reach), 2).astype(np.int64)
    band_reach = _taken(tensors, f"{prefix}.band_reach", np.uint8, -1).tolist()
    if (
        len(reach) > MAX_COLUMNS
        or reach.max(initial=0) > MAX_REACH
        or not (1 <= stride < 2**16 and 0 <= rows < 2**16)
        or shifts.min(initial=0) < 0
        or not tensors[f"{prefix}.bands"].all()
    ):
        raise ValueError(f"{prefix} has columns beyond their range")
    units = [units_of(column) for column in range(len(reach))]
    symbols = (2 * reach + 2).tolist()
    shapes: dict[str, tuple[type, list[tuple[int, ...]]]] = {
        "first": (np.int8, [(rows_of(column, rows), size) for column, size in enumerate(units)]),
        "first_bias": (np.int32, [(size,) for size in units]),
        "second": (np.int8, list(zip(units, symbols, strict=True))),
        "second_bias": (np.int32, [(size,) for size in symbols]),
    }
    matrices = {name: _divided(tensors, f"{prefix}.{name}", dtype, sizes) for name, (dtype, sizes) in shapes.items()}
    if any(np.abs(bias).max(initial=0) > _EXACT for end in ("first", "second") for bias in matrices[f"{end}_bias"]):
        raise ValueError(f"{prefix} has biases beyond what float32 holds exactly")
    return EntropyModel(
        stride=stride,
        rows=rows,
        reach=reach,
        shifts=shifts,
        bands=_divided(tensors, f"{prefix}.bands", np.uint16, [(2 * size + 2,) for size in band_reach]),
        **matrices,
    )


def _divided(tensors: Tensors, name: str, dtype: type, shapes: list[tuple[int, ...]]) -> tuple[np.ndarray, ...]:  # type: ignore[type-arg]
    """Returns the float32 matrices of those shapes that are stored one after another. Raises KeyError, ValueError."""
    joined = _taken(tensors, name, dtype, -1)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    if len(joined) != (int(ends[-1]) if len(ends) else 0):
        raise ValueError(f"{name} has another size than its columns take")
    parts = np.split(joined.astype(np.float32), ends[:-1]) if shapes else []
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
