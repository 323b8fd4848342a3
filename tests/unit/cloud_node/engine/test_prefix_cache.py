"""The cloud node's prefix cache is bounded in bytes and in time, and apart by device."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from cloud_node.engine.prefix_cache import PrefixCache, PrefixEntry
from splitvlm.domain import Plan
from splitvlm.model.prefix import Prefix

KIB = 1024


def kept(kib: int) -> PrefixEntry:
    prefix = Prefix(torch.zeros(128 * kib, dtype=torch.int64), 1, 1, {}, DynamicCache())
    return PrefixEntry(Plan.parse("tokens/int8"), prefix)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_least_recently_used_goes_first() -> None:
    memory = PrefixCache(3 * KIB, 60.0)
    for name in (b"a", b"b", b"c"):
        assert memory.put("edge", name, kept(1))
    assert memory.get("edge", b"a") is not None
    assert memory.put("edge", b"d", kept(1))
    assert [memory.get("edge", name) is not None for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert memory.num_bytes == 3 * KIB


def test_what_has_no_room_is_not_kept_and_moves_nothing_out() -> None:
    memory = PrefixCache(2 * KIB, 60.0)
    assert memory.put("edge", b"a", kept(1))
    assert not memory.put("edge", b"b", kept(3))
    assert memory.get("edge", b"a") is not None
    memory.use(0, 60.0)
    assert memory.num_bytes == 0


def test_an_entry_replaced_is_counted_once() -> None:
    memory = PrefixCache(8 * KIB, 60.0)
    memory.put("edge", b"a", kept(1))
    memory.put("edge", b"a", kept(2))
    assert memory.num_bytes == 2 * KIB


def test_what_is_not_used_goes_in_time() -> None:
    clock = Clock()
    memory = PrefixCache(8 * KIB, 60.0, clock)
    memory.put("edge", b"a", kept(1))
    clock.now_s = 50.0
    assert memory.get("edge", b"a") is not None
    clock.now_s = 105.0
    assert memory.get("edge", b"a") is not None
    clock.now_s = 170.0
    assert memory.get("edge", b"a") is None
    assert memory.num_bytes == 0


def test_devices_are_apart() -> None:
    memory = PrefixCache(8 * KIB, 60.0)
    memory.put("edge-1", b"a", kept(1))
    assert memory.get("edge-2", b"a") is None


def test_a_device_that_sends_many_pictures_drives_out_its_own_only() -> None:
    memory = PrefixCache(8 * KIB, 60.0)
    assert memory.put("shy", b"a", kept(1))
    for number in range(100):
        memory.put("greedy", str(number).encode(), kept(1))
    assert memory.get("shy", b"a") is not None
    assert memory.get("greedy", b"99") is not None
    assert memory.get("greedy", b"92") is None
    assert memory.num_bytes == 8 * KIB
    assert memory.put("shy", b"b", kept(3))
    assert memory.num_bytes == 8 * KIB
    assert memory._held == {"shy": 4 * KIB, "greedy": 4 * KIB}
    memory.use(0, 60.0)
    assert not memory._devices
    assert not memory._held
