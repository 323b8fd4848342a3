"""What the orchestrator is told anew when workers cost or serve something else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cloud_node import node
from cloud_node.control import Membership
from splitvlm.errors import ConfigError
from splitvlm.wire.v1 import control_pb2 as pb
from splitvlm.wire.v1 import profiles_pb2


def offer(model: str, queue_s: float = 1.0) -> pb.Registration:
    return pb.Registration(model=model, weights_hash=model, clouds=[profiles_pb2.CloudProfile(queue_s=queue_s)])


async def test_workers_in_other_processes_are_told_of_when_they_differ_and_errors_leave_what_was_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node, "OFFER_S", 0.0)
    first, second = (offer(model).SerializeToString() for model in ("a", "b"))
    answers, told = [first, None, ConfigError("It cannot be measured."), first, second, second, None], list[str]()

    async def current() -> bytes | None:
        if not answers:
            raise asyncio.CancelledError
        answer = answers.pop(0)
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    with pytest.raises(asyncio.CancelledError):
        await node._follow(current, first, lambda news: told.append(news.model))
    assert told == ["b"]


async def test_a_node_registers_anew_with_the_news_and_keeps_its_name_and_address() -> None:
    entry = pb.Registration(node="cloud-1", role="cloud", address="127.0.0.1:1")
    entry.MergeFrom(offer("a"))
    client = Client()

    async def renewal(tell: Callable[[pb.Registration], None]) -> None:
        tell(offer("b", 2.0))

    await Membership(client, entry, pb.HeartbeatRequest, renewal).stay()  # type: ignore[arg-type]
    [said] = client.said
    assert (said.node, said.address, said.model, said.weights_hash) == ("cloud-1", "127.0.0.1:1", "b", "b")
    assert list(said.clouds) == list(offer("b", 2.0).clouds)


class Client:
    """Stands for the connection to the orchestrator."""

    def __init__(self) -> None:
        self.said: list[pb.Registration] = []
        self._renewed = asyncio.Event()
        self._entry = pb.Registration()

    async def stay_registered(self, entry: pb.Registration, _load: Any) -> None:
        await self._renewed.wait()
        self.said.append(entry)

    def renew_registration(self) -> None:
        self._renewed.set()
