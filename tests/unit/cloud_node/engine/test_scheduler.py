"""What a pass runs, with plain numbers and names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud_node.engine.scheduler import Scheduler


def ready(_sequence: str) -> bool:
    return True


def scheduler() -> Scheduler[str]:
    return Scheduler(longest_prompt=1_000, pass_tokens=48, burst_tokens=128, least_chunk=16)


def test_nothing_is_run_where_nothing_is_there() -> None:
    idle = scheduler()
    assert idle.next_pass(ready) == ([], None, 1_000)
    assert not idle.has_work(ready)


def test_a_prompt_alone_is_read_at_once() -> None:
    alone = scheduler()
    alone.add_prompt("camera", "a")
    assert alone.next_pass(ready) == ([], "a", 1_000)


def test_chunks_leave_room_for_running_answers() -> None:
    busy = scheduler()
    for number in range(20):
        busy.join(f"answer {number}")
    busy.add_prompt("camera", "a")
    assert busy.next_pass(ready).chunk_tokens == 28
    for number in range(20, 40):
        busy.join(f"answer {number}")
    assert busy.next_pass(ready).chunk_tokens == 16, "a prompt is never held up"


def test_longer_chunks_are_read_while_more_devices_wait_than_answers_run() -> None:
    burst = scheduler()
    burst.join("answer")
    burst.add_prompt("camera", "a")
    assert burst.next_pass(ready).chunk_tokens == 47, "no other device waits"
    burst.add_prompt("camera", "b")
    assert burst.next_pass(ready).chunk_tokens == 47, "a device that asks twice counts once"
    burst.add_prompt("robot", "c")
    assert burst.next_pass(ready).chunk_tokens == 127


def test_only_answers_whose_step_has_come_move_on() -> None:
    mixed = scheduler()
    mixed.join("a")
    mixed.join("b")
    assert mixed.next_pass(lambda sequence: sequence == "b").moving == ["b"]
    assert mixed.has_work(lambda sequence: sequence == "b")
    assert not mixed.has_work(lambda _sequence: False)


def test_a_prompt_is_read_to_its_end_before_the_next() -> None:
    two = scheduler()
    two.add_prompt("camera", "a")
    assert two.next_pass(ready).reader == "a"
    two.add_prompt("robot", "b")
    assert two.next_pass(ready).reader == "a"
    two.remove("a")
    assert two.next_pass(ready).reader == "b"


def test_devices_take_turns() -> None:
    greedy = scheduler()
    for number in range(5):
        greedy.add_prompt("greedy", f"g{number}")
    greedy.add_prompt("modest", "m")
    order = []
    while (reader := greedy.next_pass(ready).reader) is not None:
        order.append(reader)
        greedy.remove(reader)
    assert order == ["g0", "m", "g1", "g2", "g3", "g4"]


def test_sequences_leave_from_wherever_they_are() -> None:
    leaving = scheduler()
    leaving.join("running")
    leaving.add_prompt("camera", "reading")
    leaving.next_pass(ready)
    leaving.add_prompt("camera", "waiting")
    assert (leaving.num_running, leaving.num_unread) == (1, 2)
    for sequence in ("running", "reading", "waiting", "unknown"):
        leaving.remove(sequence)
    assert (leaving.num_running, leaving.num_unread) == (0, 0)
    assert leaving.next_pass(ready) == ([], None, 1_000)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 200)), max_size=12), st.integers(0, 60))
def test_all_prompts_are_read_and_no_pass_is_too_long(prompts: list[tuple[str, int]], num_running: int) -> None:
    full: Scheduler[int] = Scheduler(longest_prompt=1_000, pass_tokens=48, burst_tokens=128, least_chunk=16)
    for number in range(num_running):
        full.join(-1 - number)
    unread = {}
    for number, (owner, tokens) in enumerate(prompts):
        full.add_prompt(owner, number)
        unread[number] = tokens
    for _ in range(sum(unread.values()) + 1):
        moving, reader, chunk_tokens = full.next_pass(lambda _sequence: True)
        assert len(moving) == num_running
        if reader is None:
            break
        if num_running:
            assert chunk_tokens + num_running <= max(48 if num_running > 3 else 128, num_running + 16)
        unread[reader] -= chunk_tokens
        if unread[reader] <= 0:
            full.remove(reader)
    assert full.num_unread == 0
