"""Room for the weights of several towers: each is loaded at its first use, and those used least recently are dropped for it."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_log = logging.getLogger("splitvlm.variants")


class Room(Generic[T]):
    """Holds what fits into `most_bytes` at once; None is room for all. One thread uses it."""

    def __init__(self, most_bytes: int | None) -> None:
        self._most_bytes = most_bytes
        self._known: dict[str, tuple[int, Callable[[], T]]] = {}
        self._loaded: OrderedDict[str, T] = OrderedDict()  # the one used last is the last

    def add(self, name: str, num_bytes: int, load: Callable[[], T]) -> Callable[[], T]:
        """Makes something known, and returns the callable that gives it, loaded. It fits by itself."""
        self._known[name] = num_bytes, load
        return lambda: self._get(name)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Returns what is loaded, the one used last as the last."""
        return tuple(self._loaded)

    def _get(self, name: str) -> T:
        if name not in self._loaded:
            num_bytes, load = self._known[name]
            self._make_room(num_bytes)
            self._loaded[name] = load()
            _log.info("%s loaded", name, extra={"bytes": num_bytes})
        self._loaded.move_to_end(name)
        return self._loaded[name]

    def _make_room(self, num_bytes: int) -> None:
        """Drops what was used least recently, until so many bytes are free."""
        while self._most_bytes is not None and self._loaded and self._taken_bytes() + num_bytes > self._most_bytes:
            name, _ = self._loaded.popitem(last=False)
            _log.info("%s dropped", name)

    def _taken_bytes(self) -> int:
        return sum(self._known[name][0] for name in self._loaded)
