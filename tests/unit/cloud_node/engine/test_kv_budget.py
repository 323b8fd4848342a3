"""Memory for keys and values: never above the budget, shared by devices, and a time to ask again that comes true."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_node.engine.kv_budget import FULL_RETRY_S, KvBudget
from cloud_node.engine.kv_rows import RowEnding, RowKind, RowRequest
from splitvlm.errors import CapacityError, UsageError
from splitvlm.model.batch.arena import rows_held

SHORT, LONG = RowKind(10, 128), RowKind(10, 512)
SHORT_BYTES, LONG_BYTES = 1_280, 5_120


def budget(max_bytes: int) -> KvBudget:
    return KvBudget(max_bytes, lambda kind: kind.num_layers * kind.capacity, rows_held)


def reserve(kept: KvBudget, device: str, kind: RowKind, now_s: float = 0.0, *endings: RowEnding) -> None:
    kept.reserve(RowRequest(device, kind, 1.0), now_s, lambda: endings)


def full(max_rows: int = 4) -> KvBudget:
    """A budget of so many short rows, which as many devices hold."""
    kept = budget(max_rows * SHORT_BYTES)
    for number in range(max_rows):
        reserve(kept, f"edge-{number}", SHORT)
    return kept


def test_rows_count_as_they_are_allocated() -> None:
    kept = budget(40_000)
    reserve(kept, "edge-1", SHORT)
    assert kept.held_bytes == 4 * SHORT_BYTES
    for _ in range(3):
        reserve(kept, "edge-2", SHORT)
    assert kept.held_bytes == 4 * SHORT_BYTES
    reserve(kept, "edge-3", SHORT)
    assert kept.held_bytes == 8 * SHORT_BYTES
    reserve(kept, "edge-4", LONG)
    assert kept.held_bytes == 8 * SHORT_BYTES + 4 * LONG_BYTES
    assert kept.free_bytes == 40_000 - kept.held_bytes


def test_a_full_budget_refuses_and_takes_again_what_was_given_back() -> None:
    kept = full()
    with pytest.raises(CapacityError, match="memory for caches is full") as refused:
        reserve(kept, "edge-4", SHORT)
    assert refused.value.retry_after_s == FULL_RETRY_S, "nothing is known of what runs"
    assert kept.held_bytes == 4 * SHORT_BYTES
    kept.release("edge-0", SHORT)
    reserve(kept, "edge-4", SHORT)


def test_the_time_to_ask_again_is_when_enough_rows_end() -> None:
    kept = budget(8 * LONG_BYTES)
    endings = []
    for number in range(8):
        reserve(kept, f"edge-{number}", LONG)
        endings.append(RowEnding(10.0 + number, f"edge-{number}", LONG))
    with pytest.raises(CapacityError) as refused:
        reserve(kept, "edge-8", SHORT, 0.0, *endings)
    assert 13.0 <= refused.value.retry_after_s < 15.0, "four rows are allocated at a time, and go so"


def test_what_becomes_free_is_kept_for_whoever_was_refused_before() -> None:
    kept = full()
    with pytest.raises(CapacityError) as refused:
        reserve(kept, "patient", SHORT, 0.0, RowEnding(10.0, "edge-0", SHORT))
    told_s = refused.value.retry_after_s
    kept.release("edge-0", SHORT)
    with pytest.raises(CapacityError):
        reserve(kept, "newcomer", SHORT, told_s - 1)
    reserve(kept, "patient", SHORT, told_s)


def test_a_place_in_the_line_lapses() -> None:
    kept = full()
    with pytest.raises(CapacityError):
        reserve(kept, "gone", SHORT, 0.0, RowEnding(2.0, "edge-0", SHORT))
    kept.release("edge-0", SHORT)
    reserve(kept, "newcomer", SHORT, 60.0)


def test_a_device_alone_gets_half() -> None:
    kept = budget(16 * SHORT_BYTES)
    for _ in range(8):
        reserve(kept, "edge-1", SHORT)
    with pytest.raises(CapacityError, match="edge-1 holds its share") as refused:
        reserve(kept, "edge-1", SHORT, 0.0, *(RowEnding(5.0 + n, "edge-1", SHORT) for n in range(8)))
    assert 5.0 <= refused.value.retry_after_s < 6.0
    reserve(kept, "edge-2", SHORT)


def test_what_never_fits_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="512 tokens do not fit"):
        reserve(budget(4 * LONG_BYTES - 1), "edge-1", LONG)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([SHORT, LONG]), st.booleans())))
def test_reservations_never_exceed_the_budget_and_all_go_back(
    steps: list[tuple[str, RowKind, bool]],
) -> None:
    kept, held = budget(50_000), list[tuple[str, RowKind]]()
    for device, kind, gives_back in steps:
        if gives_back and held:
            kept.release(*held.pop())
            continue
        try:
            reserve(kept, device, kind)
        except CapacityError:
            continue
        held.append((device, kind))
        assert kept.held_bytes <= 50_000
        assert kept.held_bytes + kept.free_bytes == 50_000
    for device, kind in held:
        kept.release(device, kind)
    assert kept.held_bytes == 0


@given(st.integers(0, 2**32), st.integers(2 * 4 * LONG_BYTES, 10 * LONG_BYTES))
def test_whoever_comes_back_when_told_is_admitted_whatever_others_ask(seed: int, max_bytes: int) -> None:
    """Each of many devices asks once, and comes back at the time that it was told: one refusal is the most.

    So none starves, a long row among short ones included.
    """
    source = random.Random(seed)
    arrivals = [
        (source.uniform(0.0, 20.0), source.choice([SHORT, SHORT, LONG]), source.uniform(0.1, 15.0)) for _ in range(80)
    ]
    kept, running = budget(max_bytes), list[tuple[float, str, RowKind]]()
    asking = [(at_s, number, f"edge-{number}", *rest) for number, (at_s, *rest) in enumerate(arrivals)]
    heapq.heapify(asking)
    returned = set[str]()
    while asking:
        now_s, number, device, kind, takes_s = heapq.heappop(asking)
        while running and running[0][0] <= now_s:
            _, other, ended = heapq.heappop(running)
            kept.release(other, ended)
        endings = [RowEnding(end_s - now_s, other, other_kind) for end_s, other, other_kind in running]
        try:
            kept.reserve(RowRequest(device, kind, takes_s), now_s, lambda endings=endings: endings)
        except CapacityError as error:
            assert device not in returned, "the time that it was told did not come true"
            returned.add(device)
            heapq.heappush(asking, (now_s + error.retry_after_s, number, device, kind, takes_s))
            continue
        assert kept.held_bytes <= max_bytes
        heapq.heappush(running, (now_s + takes_s, device, kind))
    assert len(returned) > 5, "the budget was full"
