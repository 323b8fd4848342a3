"""Finds the folders for splitvlm's own files: the platform's for a user's data and caches, or those that variables name.

$SPLITVLM_BUNDLES, else e.g. ~/.local/share/splitvlm/bundles     what was learned about models
$SPLITVLM_CACHE, else e.g. ~/.cache/splitvlm                     what is measured again where it is missing
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

from splitvlm.files.paths import path_of

BUNDLES_VARIABLE = "SPLITVLM_BUNDLES"
CACHE_VARIABLE = "SPLITVLM_CACHE"


def bundles_folder() -> Path | None:
    """Returns the folder of this user's bundles; None without a home folder, as in a container that runs as any user."""
    data = _named_or_standard(BUNDLES_VARIABLE, platformdirs.user_data_path)
    return data / "bundles" if data is not None and not os.environ.get(BUNDLES_VARIABLE) else data


def cache_folder() -> Path | None:
    """Returns the folder of this user's caches; None without a home folder."""
    return _named_or_standard(CACHE_VARIABLE, platformdirs.user_cache_path)


def _named_or_standard(variable: str, standard: Callable[..., Path]) -> Path | None:
    """Returns what the variable names, else the platform's folder; None where that cannot be told."""
    if named := os.environ.get(variable):
        return path_of(named)
    try:
        folder = standard("splitvlm", appauthor=False)
    except RuntimeError:  # platformdirs, of no home folder; before 4.14 it leaves a `~` in the path instead
        return None
    return folder if folder.is_absolute() else None
