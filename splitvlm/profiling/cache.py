"""Keeps what was measured once in a folder of small files, each named by what it depends on.

The folder is the user's cache (splitvlm.files.folders), else one that goes with the process. Nodes keep their profiles there,
and `splitvlm profile` what it has measured so far. Whatever is removed is measured again; a folder that cannot be written keeps
nothing, which the log says.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from splitvlm.files.folders import cache_folder

T = TypeVar("T")
_log = logging.getLogger("splitvlm.profiling.cache")
_FORMAT = 1  # another one where profiles are measured in another way
_LIBRARIES = ("torch", "transformers", "numpy", "pillow", "constriction", "zstandard", "onnxruntime", "openvino")


def folder() -> Path:
    """Returns where results are kept.

    Without a home folder (a container that runs as any user) they last as long as the process.
    """
    return cache_folder() or Path(_passing_folder().name)


@cache
def _passing_folder() -> TemporaryDirectory[str]:
    """Returns a private folder that is removed when the process ends."""
    folder = TemporaryDirectory(prefix="splitvlm-cache-")
    _log.warning(
        "there is no home folder: what is measured is kept in %s until this process ends; SPLITVLM_CACHE names another",
        folder.name,
    )
    return folder


def cached(
    name: str,
    facts: Mapping[str, object],
    make: Callable[[], T],
    to_bytes: Callable[[T], bytes],
    from_bytes: Callable[[bytes], T],
) -> T:
    """Returns what `make` gives, or gave when all `facts`, this machine and the libraries were the same."""
    path = path_of(name, facts)
    try:
        result = from_bytes(path.read_bytes())
    except FileNotFoundError:
        pass
    except Exception as error:  # noqa: BLE001  whatever is wrong with a file that only saves time: measure again
        _log.warning("%s cannot be used and is made again: %s", path, error)
    else:
        _log.info("%s taken from %s; remove that file to measure again", name, path)
        return result
    made = make()
    _write(path, to_bytes(made))
    return made


def store(name: str, facts: Mapping[str, object], data: bytes) -> None:
    """Keeps a result in place of an older one."""
    _write(path_of(name, facts), data)


def discard(name: str, facts: Mapping[str, object]) -> None:
    """Removes a result; a missing one is no error."""
    path_of(name, facts).unlink(missing_ok=True)


def path_of(name: str, facts: Mapping[str, object]) -> Path:
    """Returns the file of a result."""
    depends = {"format": _FORMAT, "machine": processor(), "cores": os.cpu_count(), **_versions(), **facts}
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    return folder() / f"{name}-{digest[:24]}"


@cache
def processor() -> str:
    """Returns the processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(data)
        fresh.replace(path)
    except OSError as error:
        _log.warning("nothing is kept in %s: %s", path.parent, error.strerror)


@cache
def _versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions
