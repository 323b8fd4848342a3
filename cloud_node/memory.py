"""What the cloud node remembers of pictures, so that another question about one brings only the question.

Entries belong to the device that sent the picture, under a name that it made with a key of its own: no device finds what
another one sent, nor learns by timing whether it did. The oldest go first when room is short; all go in time.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from splitvlm.domain import Plan
from splitvlm.model.prefix import Prefix


def picture_bytes(picture: Image.Image) -> int:
    """Of an opened picture: Pillow keeps four bytes a pixel of RGB."""
    return 4 * picture.width * picture.height


@dataclass(frozen=True, slots=True)
class Kept:
    """One picture, as it came under `plan`."""

    plan: Plan
    prefix: Prefix
    picture: Image.Image | None = None  # cut `image`: the prompt is made here, and depends on it

    @property
    def num_bytes(self) -> int:
        return self.prefix.num_bytes + (picture_bytes(self.picture) if self.picture else 0)


class Memory:
    """Pictures of all devices, at most `max_bytes`, none unused for longer than `max_age_s`. Single-threaded."""

    def __init__(self, max_bytes: int, max_age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._clock = clock
        self._entries: OrderedDict[tuple[str, bytes], tuple[Kept, float]] = OrderedDict()  # least recently used first
        self.num_bytes = 0

    def use(self, max_bytes: int, max_age_s: float) -> None:
        """Other limits, from now on."""
        self._max_bytes, self._max_age_s = max_bytes, max_age_s
        self._trim()

    def put(self, device: str, name: bytes, kept: Kept) -> bool:
        """Whether it is kept: what is larger than all the room is not."""
        self._take((device, name))
        if kept.num_bytes > self._max_bytes:
            return False
        self._entries[device, name] = (kept, self._clock())
        self.num_bytes += kept.num_bytes
        self._trim()
        return True

    def get(self, device: str, name: bytes) -> Kept | None:
        self._trim()
        entry = self._entries.get((device, name))
        if entry is None:
            return None
        self._entries[device, name] = (entry[0], self._clock())
        self._entries.move_to_end((device, name))
        return entry[0]

    def _trim(self) -> None:
        now_s = self._clock()
        while self._entries:
            key, (_, used_s) = next(iter(self._entries.items()))
            if self.num_bytes <= self._max_bytes and now_s - used_s <= self._max_age_s:
                return
            self._take(key)

    def _take(self, key: tuple[str, bytes]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.num_bytes -= entry[0].num_bytes


class Shelf:
    """One device's part of the memory."""

    def __init__(self, memory: Memory, device: str) -> None:
        self._memory = memory
        self.device = device

    def put(self, name: bytes, kept: Kept) -> bool:
        return self._memory.put(self.device, name, kept)

    def get(self, name: bytes) -> Kept | None:
        return self._memory.get(self.device, name)
