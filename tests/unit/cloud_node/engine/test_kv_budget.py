import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_node.engine.kv_budget import KvBudget, RowKind
from splitvlm.errors import CapacityError, UsageError
from splitvlm.model.batch.arena import rows_held

SHORT, LONG = RowKind(10, 128), RowKind(10, 512)


def budget(max_bytes: int) -> KvBudget:
    return KvBudget(max_bytes, lambda kind: kind.num_layers * kind.capacity, rows_held)


def test_rows_count_as_they_are_allocated() -> None:
    kept = budget(40_000)
    kept.reserve("edge-1", SHORT)
    assert kept.held_bytes == 4 * 1_280
    for _ in range(3):
        kept.reserve("edge-2", SHORT)
    assert kept.held_bytes == 4 * 1_280
    kept.reserve("edge-3", SHORT)
    assert kept.held_bytes == 8 * 1_280
    kept.reserve("edge-4", LONG)
    assert kept.held_bytes == 8 * 1_280 + 4 * 5_120


def test_a_full_budget_refuses_and_takes_again_what_was_given_back() -> None:
    kept = budget(4 * 1_280)
    for number in range(4):
        kept.reserve(f"edge-{number}", SHORT)
    with pytest.raises(CapacityError, match="memory for caches is full") as refused:
        kept.reserve("edge-4", SHORT)
    assert refused.value.retry_after_s > 0
    assert kept.held_bytes == 4 * 1_280
    kept.release("edge-0", SHORT)
    kept.reserve("edge-4", SHORT)


def test_a_device_alone_gets_half() -> None:
    kept = budget(16 * 1_280)
    for _ in range(8):
        kept.reserve("edge-1", SHORT)
    with pytest.raises(CapacityError, match="edge-1 holds its share"):
        kept.reserve("edge-1", SHORT)
    kept.reserve("edge-2", SHORT)


def test_what_never_fits_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="512 tokens do not fit"):
        budget(4 * 5_120 - 1).reserve("edge-1", LONG)


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
            kept.reserve(device, kind)
        except CapacityError:
            continue
        held.append((device, kind))
        assert kept.held_bytes <= 50_000
    for device, kind in held:
        kept.release(device, kind)
    assert kept.held_bytes == 0
