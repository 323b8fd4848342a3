"""SIGHUP: read the configuration file again. What can change does, from the next request on; the rest is named and kept."""

from __future__ import annotations

import contextlib
import logging
import signal
from asyncio import get_running_loop
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from splitvlm.errors import SplitvlmError
from splitvlm.node.logs import set_up
from splitvlm.settings import Logging, Section, load

_log = logging.getLogger("splitvlm.reload")
S = TypeVar("S", bound=Section)


def merged(old: S, new: S, changeable: frozenset[str], prefix: str = "") -> tuple[S, list[str]]:
    """Returns the old settings with the new values of `changeable` keys, and the names of other keys that differ.

    A key is `section.key`, or `section` for all of a section.
    """
    values: dict[str, object] = {}
    unchanged_names: list[str] = []
    for name in type(old).model_fields:
        key, before, after = prefix + name, getattr(old, name), getattr(new, name)
        if before == after or key in changeable:
            values[name] = after
        elif isinstance(before, Section) and isinstance(after, type(before)):
            values[name], inner = merged(before, after, changeable, f"{key}.")
            unchanged_names += inner
        else:
            values[name] = before
            unchanged_names.append(key)
    return old.model_copy(update=values), unchanged_names


class Reloader:
    """Reloads a node's configuration.

    `settings` is what holds now; `apply` takes new ones, or raises a SplitvlmError and leaves all as it was.
    """

    def __init__(self, source: Path, settings: S, changeable: frozenset[str], apply: Callable[[S], None]) -> None:
        self.settings: Section = settings
        self._source = source
        self._changeable = changeable
        self._apply: Callable[..., None] = apply

    def reload(self) -> None:
        """Reads the configuration anew and applies what may change; an invalid one is logged and leaves all as it was."""
        try:
            new = load(self._source, type(self.settings))
            settings, unchanged_names = merged(self.settings, new, self._changeable)
            self._apply(settings)
        except SplitvlmError as error:
            _log.error("the configuration stays as it was: %s", error)
            return
        self.settings = settings
        logging_section = getattr(settings, "logging", None)
        if isinstance(logging_section, Logging):
            set_up(logging_section)
        if unchanged_names:
            _log.warning("a restart is needed for: %s", ", ".join(unchanged_names), extra={"kept": unchanged_names})
        _log.info("configuration read again", extra={"source": str(self._source)})


@contextlib.contextmanager
def reloading(
    source: Path | None, settings: S, changeable: frozenset[str], apply: Callable[[S], None]
) -> Iterator[None]:
    """Lets SIGHUP reload while this is open. Without a file there is nothing to read again, and SIGHUP is ignored."""
    loop = get_running_loop()
    handler = Reloader(source, settings, changeable, apply).reload if source else _nothing_to_read
    loop.add_signal_handler(signal.SIGHUP, handler)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _nothing_to_read() -> None:
    _log.info("SIGHUP: there is no configuration file to read again")
