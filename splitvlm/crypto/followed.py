"""Files that count anew, without a restart, once they have changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from splitvlm.errors import KeysError

_log = logging.getLogger("splitvlm.crypto")
T = TypeVar("T")
Stamp = tuple[int, ...]


class FollowedFiles(Generic[T]):
    """Keeps what `read` makes of some files, and reads them again once they change. Any thread may ask.

    Files that could not be read are tried again at each look, until they can: what they lack (a right, the other half of a
    copy, a descriptor) may come without a trace in their stamps.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """Raises what `read` raises."""
        self._paths = paths
        self._read = read
        self._stamps = self._look()  # before reading: what changes meanwhile is read again
        self._value = read()
        self._complaint = ""

    def newest(self) -> T:
        """Returns the value of the files as they are, or, where they cannot be read, as they were."""
        stamps = self._look()
        if stamps != self._stamps:
            try:
                self._value = self._read()
                self._stamps, self._complaint = stamps, ""
            except KeysError as error:
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    _log.error("%s What was read before counts until then.", error)
        return self._value

    def _look(self) -> list[Stamp]:
        return [stamp_of(path) for path in self._paths]


def stamp_of(path: Path) -> Stamp:
    """Returns what changes with a file's contents, owner or rights; empty where it cannot be seen."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
