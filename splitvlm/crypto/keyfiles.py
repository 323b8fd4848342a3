"""Files of an authority and of its nodes: written whole or not at all, with their mode before they have their contents."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from splitvlm.errors import KeysError


def make_folder(folder: Path) -> None:
    """Makes a folder for its user only, unless it exists. Raises KeysError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def write_new(path: Path, data: bytes, mode: int, *, advice: str) -> None:
    """Writes a file that must not exist yet. Raises KeysError, with the advice where it exists."""
    try:
        _write(path, data, mode)
    except FileExistsError as error:
        raise KeysError(f"{path} exists, and is not overwritten.", advice=advice) from error
    except OSError as error:
        raise _unwritable(path, error) from error


def replace(path: Path, data: bytes, mode: int) -> None:
    """Writes a file so that at any moment, also after a power cut, it is the old one or the new one. Raises KeysError."""
    fresh = path.with_suffix(".new")
    try:
        fresh.unlink(missing_ok=True)
        _write(fresh, data, mode)
        fresh.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes that lock the same file waiting. Raises KeysError where it cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise KeysError(
            f"Cannot read {path}: {error.strerror}.", advice="Make an authority with `splitvlm keys init`."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> KeysError:
    return KeysError(
        f"Cannot write {path}: {error.strerror}.", advice="Run the command where the authority's folder can be written."
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
