"""How many async generators a hedged token passes, from the cloud's frame to the application's stream (docs/adr/0010)."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from splitvlm.domain import Plan
from splitvlm.planning.policy import Choice
from splitvlm.rpc.sealed_stream import SealedStream
from tests.edge import edge_node

MOST_GENERATORS = 5
PLANS = ("image/lossless", "tokens/lossless", "lm:1/lossless")


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    """What awaits what, from the innermost outwards: a task that goes on has all of it on its stack."""
    while frame is not None:
        yield frame
        frame = frame.f_back


@pytest.mark.parametrize("plan", PLANS)
async def test_a_hedged_token_passes_at_most_five_async_generators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    """Each token's frame is opened at the end of the whole way: the stack there names all that it will pass."""
    whole, racing = list[list[str]](), list[list[str]]()
    real = SealedStream.open

    def seen(stream: Any, envelope: Any) -> Any:
        message = real(stream, envelope)
        if message.DESCRIPTOR.name == "CloudFrame" and message.HasField("token"):
            stack = list(callers(sys._getframe()))
            names = [frame.f_code.co_name for frame in stack if frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR]
            (whole if any(frame.f_code.co_name == "Ask" for frame in stack) else racing).append(names)
        return message

    async with edge_node(tmp_path) as node:
        choice = Choice(Plan.parse(plan), 1.0, 1.0, "hedged, and the cloud is quick", hedge_after_s=1e6)
        monkeypatch.setattr(node.planner, "choose", lambda *_: choice)
        monkeypatch.setattr(SealedStream, "open", seen)
        report = await node.ask(max_new_tokens=6)
    assert (report.answered_by, report.tokens) == ("cloud", 6)
    assert len(whole) == 5, "the first token comes in the race's task, the others on the whole way"
    assert racing == [[]]
    assert max(map(len, whole)) <= MOST_GENERATORS
    assert whole == 5 * [["answer"]], "a new one must be thought of, here and in the decision"
