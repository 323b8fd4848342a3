"""Checks a model's folder before transformers reads a line of it. Nothing here loads a weight or runs a file's code.

Refused by name: folders whose download did not finish, settings that are not JSON objects, settings that name code to be run
(`auto_map`), quantised checkpoints, and adapters (a LoRA) beside or instead of a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from splitvlm.errors import UsageError
from splitvlm.files.text import read_json

SETTINGS_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
"""Patterns of a model's small files; the Hub is asked for these, and for `*.safetensors`."""
_OBJECTS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "special_tokens_map.json",
)  # those that transformers reads as JSON objects
_QUANTISED = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")  # old GPTQ, old AWQ, ModelOpt
_ADAPTER = "adapter_config.json"
_OTHER_FORMATS = {".bin": "pickles", ".pt": "pickles", ".pth": "pickles", ".ckpt": "pickles", ".gguf": "GGUF"}
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def check_folder(folder: Path) -> None:
    """Raises UsageError, saying what to do, for a folder of settings that must not or cannot be loaded."""
    if not (folder / "config.json").exists() and (folder / _ADAPTER).exists():
        raise UsageError(
            f"{folder} holds an adapter and no model: there is no config.json.",
            advice=f"Name its base with it: MODEL+{folder}.",
        )
    for path in sorted(folder.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in (*SETTINGS_FILES, "*.safetensors")):
            _check_present(path)
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} holds no model: there is no config.json.", advice="Name a saved model's folder.")
    for name in _OBJECTS:
        if (folder / name).exists():
            _check_code(folder / name, read_object(folder / name))
    _check_quantised(folder)
    if (folder / _ADAPTER).exists():
        raise UsageError(
            f"{folder} holds an adapter beside the model ({_ADAPTER}), which would be left out of every answer.",
            advice=f"Move the adapter's files into a folder of their own and name both: {folder}+FOLDER.",
        )


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file. Raises UsageError."""
    advice = "The file is damaged or cut off: fetch it again."
    content = read_json(path, "settings", advice=advice)
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no JSON object.", advice=advice)
    return content


def no_weights(folder: Path) -> UsageError:
    """Returns the error for a folder without safetensors, which says what is there instead."""
    others = sorted({kind for path in folder.iterdir() if (kind := _OTHER_FORMATS.get(path.suffix))})
    others_text = f"; it holds {' and '.join(others)}, which are not loaded" if others else ""
    return UsageError(
        f"{folder} holds no weights as safetensors{others_text}.",
        advice="Save the model with save_pretrained of transformers, which writes safetensors.",
    )


def _check_present(path: Path) -> None:
    """Refuses a link to nothing and a pointer of Git LFS: both stand for a file that was not fetched."""
    if path.is_symlink() and not path.exists():
        raise UsageError(
            f"{path} is a link to a file that is not there.",
            advice="The download did not finish: fetch the model again.",
        )
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.", advice="Check who may read it.") from error
    if is_pointer:
        raise UsageError(
            f"{path} is a pointer of Git LFS, not the file itself.", advice="Run `git lfs pull` in the model's folder."
        )


def _check_code(path: Path, settings: dict[str, Any]) -> None:
    for holder in _objects_in(settings):
        if named := holder.get("auto_map"):
            code = ", ".join(map(str, named.values())) if isinstance(named, dict) else str(named)
            raise UsageError(
                f"{path} asks for code of the model's own to be run (auto_map: {code[:120]}), which splitvlm never does.",
                advice="Name a model that transformers itself knows, saved without auto_map.",
            )


def _check_quantised(folder: Path) -> None:
    for name in ("config.json", *_QUANTISED):
        if not (folder / name).is_file():
            continue
        for holder in _objects_in(read_object(folder / name)):
            settings = (
                holder if name in _QUANTISED else holder.get("quantization_config") or holder.get("compression_config")
            )
            if settings:
                raise UsageError(
                    f"{folder} holds a quantised model ({_method(name, settings)}, by {name}), whose weights are not run here.",
                    advice="Name the model that it was made from, in float32, bfloat16 or float16.",
                )


def _method(name: str, settings: Any) -> str:
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if method == "bitsandbytes" and isinstance(settings, dict):
        return "bitsandbytes in 4 bits" if settings.get("load_in_4bit") else "bitsandbytes in 8 bits"
    return str(method or {"quantize_config.json": "gptq", "quant_config.json": "awq"}.get(name, "unknown method"))


def _objects_in(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields an object, and those inside it: composite models keep settings for each of their parts."""
    unvisited = [settings]
    while unvisited:
        holder = unvisited.pop()
        yield holder
        unvisited += [value for value in holder.values() if isinstance(value, dict)]
