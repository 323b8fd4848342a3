"""Finds the source of a model by its name: `scenes`, `shape:<id>`, a folder, or an id of the Hugging Face Hub.

MODEL+FOLDER is a model with a LoRA adapter of that folder merged into it.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from splitvlm.errors import UsageError
from splitvlm.files.paths import looks_like_path, path_of
from splitvlm.model.adapters import AdaptedSource, Adapter
from splitvlm.model.folders import SETTINGS_FILES, check_folder
from splitvlm.model.shapes import ShapeSource
from splitvlm.model.sources import FolderSource, Source

_HUB_ID = re.compile(r"[a-zA-Z0-9_][\w.-]*/[a-zA-Z0-9_][\w.-]*", re.ASCII)
"""No path with `.`, `..`, `~` or a root is one, so that the Hub is never asked for a local path."""


def find_source(name: str) -> Source:
    """Returns the source of a model's name. Raises UsageError."""
    if name == "scenes":
        return FolderSource(_embedded_folder())
    if name.startswith("shape:"):
        return ShapeSource(name.removeprefix("shape:"))
    path = path_of(name)
    if path.is_dir():
        return FolderSource(path)
    base, plus, adapter = name.rpartition("+")
    if plus and path_of(adapter).is_dir():
        return AdaptedSource(find_source(base), Adapter(path_of(adapter)))
    if looks_like_path(name) or not _HUB_ID.fullmatch(name) or path.exists() or path.is_symlink():
        raise UsageError(
            f"There is no model '{name}'{': that is a file' if path.is_file() else ''}.",
            advice="A model is a folder, a Hugging Face id (owner/name), `scenes` or `shape:<id>`.",
        )
    return FolderSource(_download(name))


def _embedded_folder() -> Path:
    folder = Path(str(resources.files("splitvlm") / "scenes" / "files"))
    if not (folder / "config.json").is_file():
        raise UsageError(
            "The files of the embedded model `scenes` are missing from this installation.",
            advice="Install splitvlm again, or train it: python -m splitvlm.scenes.train.",
        )
    return folder


def _download(name: str) -> Path:
    """Returns the snapshot of a Hub's repository: its small files, and where those can be loaded, its weights.

    Raises UsageError.
    """
    check_folder(_fetch(name, SETTINGS_FILES))
    return _fetch(name, (*SETTINGS_FILES, "*.safetensors"))


def _fetch(name: str, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # the Hub's client raises errors of three libraries
        raise UsageError(
            f"There is no model '{name}': it is no folder here, and cannot be fetched from the Hugging Face Hub "
            f"({type(error).__name__}).",
            advice="Check the name and the connection, or name a folder.",
        ) from error
