"""The weights of a model's folder as the headers of its safetensors tell them, compared with what the model needs.

Which files count is transformers' own rule: `model.safetensors`, else the shards that `model.safetensors.index.json` names.
Comparing reads headers alone, so that a checkpoint that does not fit is refused before a weight is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from splitvlm.errors import UsageError
from splitvlm.model.folders import no_weights, read_object
from splitvlm.model.skeleton import tied_names

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_FLOATS = ("F32", "F16", "BF16", "F64")  # dtypes, as safetensors names them, that hold weights as they are
_ROWS = 4096  # of a table, compared at a time
_NAMED = 3  # tensors that an error names; a checkpoint that does not fit lacks hundreds


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Names a tensor in a file, as it is called there."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Returns the files that hold the model's weights. Raises UsageError."""
    if (folder / _SINGLE).is_file():
        return (folder / _SINGLE,)
    if not (folder / _INDEX).is_file():
        if any(folder.glob("model*.safetensors")):
            raise UsageError(
                f"{folder} holds weights in several files, but no {_INDEX} that lists them.",
                advice="Fetch that file too, or save the model again.",
            )
        raise no_weights(folder)
    places = read_object(folder / _INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise UsageError(f"{folder / _INDEX} lists no weights.", advice="The file is damaged: fetch it again.")
    return tuple(_shard(folder, name) for name in sorted(set(places.values())))


def _shard(folder: Path, name: str) -> Path:
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise UsageError(
            f"{folder / _INDEX} names '{name}', which is no safetensors file of this folder.",
            advice="Fetch the model again from where you trust it.",
        )
    if not (folder / name).is_file():
        raise UsageError(
            f"{folder} lacks {name}, which {_INDEX} names.",
            advice="The download did not finish: fetch the model again.",
        )
    return folder / name


def opened(path: Path) -> Any:
    """Returns a safetensors file, open for reading. Raises UsageError."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"The weights in {path} cannot be read.", advice="The file is damaged or cut off: fetch it again."
        ) from error


def matched(files: Collection[Path], model: Any, needed: Collection[str]) -> dict[str, StoredTensor]:
    """Returns where each parameter of a skeleton is stored, by its name in the model; of a shared one, by each name that is
    stored.

    Raises UsageError for tensors that are left over, missing, of another size, or quantised.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    rename, ignored = _renamer(model, parameters), _ignored(model)
    stored_by_name: dict[str, StoredTensor] = {}
    left_over = []
    for stored in _stored(files):
        name = rename(stored.name)
        if name not in parameters:
            left_over += [] if ignored.search(name) else [stored.name]
            continue
        if name in stored_by_name:
            raise _misfit(files, f"'{stored_by_name[name].name}' and '{stored.name}' are both the model's {name}")
        stored_by_name[name] = stored
    _check_left_over(files, left_over)
    for name, stored in stored_by_name.items():
        _check_tensor(files, stored, tuple(parameters[name].shape))
    tied = tied_names(model)
    missing = sorted(name for name in needed if not any(alias in stored_by_name for alias in tied.get(name, (name,))))
    if missing:
        raise UsageError(
            f"The weights in {_folder(files)} are incomplete: {_some(missing)} missing.",
            advice="Fetch the model again; its config.json may be that of another model.",
        )
    _check_tied(files, stored_by_name, set(tied.values()))
    return stored_by_name


def _stored(files: Collection[Path]) -> Iterator[StoredTensor]:
    for path in files:
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                header = file.get_slice(name)
                yield StoredTensor(path, name, tuple(header.get_shape()), str(header.get_dtype()))


def _renamer(model: Any, parameters: Mapping[str, torch.Tensor]) -> Any:
    """Returns transformers' renaming of stored tensors to today's names (older checkpoints call them otherwise)."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [t for t in get_model_conversion_mapping(model) if isinstance(t, WeightRenaming)]
    return lambda stored: rename_source_key(stored, renamings, [], model.base_model_prefix, parameters)[0]


def _ignored(model: Any) -> re.Pattern[str]:
    """Returns the names of tensors that transformers leaves out, too: those of its model, and buffers that are computed today.

    Source: transformers modeling_utils.py, `_adjust_missing_and_unexpected_keys`.
    """
    patterns = [r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$", *(model._keys_to_ignore_on_load_unexpected or ())]
    return re.compile("|".join(f"({pattern})" for pattern in patterns))


def _check_left_over(files: Collection[Path], names: list[str]) -> None:
    if not names:
        return
    scales = "; scales and zero points are those of a quantised model" if any(map(_is_scale, names)) else ""
    raise _misfit(files, f"{_some(sorted(names))} left over{scales}")


def _is_scale(name: str) -> bool:
    return name.endswith(
        ("_scale", "_scale_inv", "_scale_2", "SCB", "absmax", "qweight", "qzeros", "scales", "_zero_point")
    )


def _check_tensor(files: Collection[Path], stored: StoredTensor, shape: tuple[int, ...]) -> None:
    if stored.dtype not in _FLOATS:
        raise _misfit(files, f"{stored.name} is stored as {stored.dtype}, as quantised weights are")
    if stored.shape != shape:
        raise _misfit(files, f"{stored.name} has the shape {list(stored.shape)} where config.json says {list(shape)}")


def _check_tied(
    files: Collection[Path], stored_by_name: Mapping[str, StoredTensor], groups: Collection[tuple[str, ...]]
) -> None:
    """Refuses a shared parameter that is stored twice with different values, of which transformers would take both."""
    for group in groups:
        stored = [stored_by_name[name] for name in group if name in stored_by_name]
        for other in stored[1:]:
            if not _equal(stored[0], other):
                raise _misfit(
                    files,
                    f"{stored[0].name} and {other.name} differ, which config.json says are one (tie_word_embeddings)",
                )


def _equal(tensor: StoredTensor, other: StoredTensor) -> bool:
    with opened(tensor.path) as first, opened(other.path) as second:
        slice_of_tensor, slice_of_other = first.get_slice(tensor.name), second.get_slice(other.name)
        starts = range(0, tensor.shape[0], _ROWS)
        return all(
            torch.equal(slice_of_tensor[start : start + _ROWS], slice_of_other[start : start + _ROWS])
            for start in starts
        )


def _misfit(files: Collection[Path], what: str) -> UsageError:
    return UsageError(
        f"The weights in {_folder(files)} are not those of its config.json: {what}.",
        advice="Save the unquantised model again with save_pretrained of transformers, weights and config.json together.",
    )


def _some(names: list[str]) -> str:
    few = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} others" if len(names) > _NAMED else ""
    return f"{few}{more} {'are' if len(names) > 1 else 'is'}"


def _folder(files: Collection[Path]) -> Path:
    return next(iter(files)).parent
