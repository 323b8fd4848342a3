"""Weights come when they are used and go when others need the room: never more than fits, whatever is asked in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from splitvlm.variants.room import Room

SIZES = {"full": 5, "int8": 2, "pruned": 3, "student": 1}


@given(st.integers(5, 11), st.lists(st.sampled_from(sorted(SIZES)), max_size=30))
def test_what_is_loaded_fits_and_is_what_was_used_last(most_bytes: int, asked: list[str]) -> None:
    room: Room[str] = Room(most_bytes)
    loads: list[str] = []

    def known(name: str) -> str:
        loads.append(name)
        return name

    getters = {name: room.add(name, size, lambda name=name: known(name)) for name, size in SIZES.items()}
    used: list[str] = []
    for name in asked:
        was_loaded = name in room.loaded
        before = len(loads)
        assert getters[name]() == name
        assert len(loads) == before + (not was_loaded)
        used = [*(other for other in used if other != name), name]
        assert sum(SIZES[loaded] for loaded in room.loaded) <= most_bytes
        assert list(room.loaded) == used[len(used) - len(room.loaded) :]


def test_without_a_limit_nothing_is_dropped() -> None:
    room: Room[str] = Room(None)
    getters = [room.add(name, size, lambda name=name: name) for name, size in SIZES.items()]
    assert [get() for get in getters] == list(room.loaded) == list(SIZES)
