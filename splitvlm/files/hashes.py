"""SHA-256 of files, computed once for each state that a file has in this process."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


def file_hash(path: Path) -> str:
    """Returns the hex SHA-256 of the file's bytes. Raises OSError where it cannot be read."""
    return _hash_of(path, _stamp_of(path))


def _stamp_of(path: Path) -> tuple[int, ...]:
    """Returns what changes with a file's contents, also where another file of that length and date takes its place."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@cache
def _hash_of(path: Path, stamp: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
