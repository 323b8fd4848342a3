"""Caches what prompts leave in a worker, so that a prompt that begins alike brings only its rest.

Entries belong to the device that sent the prompt, under a name that it made with a key of its own: no device finds what
another one sent, nor learns by timing whether it did.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from cloud_node.engine.protocol import CachedPrefix
from splitvlm.domain import Plan

_log = logging.getLogger("splitvlm.cloud.engine")


def images_bytes(images: Sequence[Image.Image]) -> int:
    """Returns the size of opened images: Pillow keeps four bytes a pixel of RGB."""
    return sum(4 * image.width * image.height for image in images)


@dataclass(frozen=True, slots=True)
class PrefixEntry:
    """Holds what is cached of one prompt, whose images came under `plan`."""

    plan: Plan
    prefix: CachedPrefix
    images: tuple[Image.Image, ...] = ()  # cut `image`: prompts are made here, and depend on them
    answer_ids: list[int] = field(default_factory=list)  # that came after the prompt so far

    @property
    def num_bytes(self) -> int:
        """Returns the bytes that the entry holds."""
        return self.prefix.num_bytes + images_bytes(self.images)


class PrefixCache:
    """Holds prefixes of all devices, at most `max_bytes`, none unused for longer than `max_age_s`. Single-threaded.

    Keys and values of prefixes count in the engine's budget, too, of which they get what running answers leave (`leave`).
    Where room is short, the device that has most gives its oldest: none can drive out what others sent.
    """

    def __init__(self, max_bytes: int, max_age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._max_kv_bytes = sys.maxsize  # until an engine with a budget says less
        self._max_age_s = max_age_s
        self._clock = clock
        self._devices: dict[str, OrderedDict[bytes, tuple[PrefixEntry, float]]] = {}  # each least recently used first
        self._held: Counter[str] = Counter()  # bytes by device
        self._kv_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Returns the bytes that all entries hold."""
        return self._held.total()

    @property
    def kv_bytes(self) -> int:
        """Returns the bytes that the prefixes of all entries hold, without pictures."""
        return self._kv_bytes

    def leave(self, kv_bytes: int) -> None:
        """Takes another bound on the memory of prefixes, which counts at once: entries go until it holds."""
        self._max_kv_bytes = kv_bytes
        self._trim()

    def use(self, max_bytes: int, max_age_s: float) -> None:
        """Takes other limits, which count at once."""
        self._max_bytes, self._max_age_s = max_bytes, max_age_s
        self._trim()

    def put(self, device: str, name: bytes, kept: PrefixEntry) -> bool:
        """Keeps an entry in place of the name's last one; returns whether it has room."""
        self._take(device, name)
        if kept.num_bytes > self._max_bytes or kept.prefix.num_bytes > self._max_kv_bytes:
            return False
        self._devices.setdefault(device, OrderedDict())[name] = (kept, self._clock())
        self._held[device] += kept.num_bytes
        self._kv_bytes += kept.prefix.num_bytes
        self._trim()
        return self._entry(device, name) is not None

    def get(self, device: str, name: bytes) -> PrefixEntry | None:
        """Returns the device's entry of that name, which is then its most recently used; None where there is none."""
        self._trim()
        entry = self._entry(device, name)
        if entry is None:
            return None
        self._devices[device][name] = (entry[0], self._clock())
        self._devices[device].move_to_end(name)
        return entry[0]

    def _entry(self, device: str, name: bytes) -> tuple[PrefixEntry, float] | None:
        return self._devices.get(device, OrderedDict()).get(name)

    def _trim(self) -> None:
        oldest_s = self._clock() - self._max_age_s
        for device, entries in list(self._devices.items()):
            while entries and next(iter(entries.values()))[1] < oldest_s:
                self._take(device, next(iter(entries)))
        while self.num_bytes > self._max_bytes or self._kv_bytes > self._max_kv_bytes:
            [(device, _)] = self._held.most_common(1)
            self._take(device, next(iter(self._devices[device])))
        _log.debug("prefixes", extra={"prefix_bytes": self._kv_bytes})

    def _take(self, device: str, name: bytes) -> None:
        entry = self._devices.get(device, OrderedDict()).pop(name, None)
        if entry is None:
            return
        self._held[device] -= entry[0].num_bytes
        self._kv_bytes -= entry[0].prefix.num_bytes
        if not self._devices[device]:
            del self._devices[device], self._held[device]
