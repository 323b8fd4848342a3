"""Which cloud nodes the device dials, and that it lets go of those that it dials no more."""

from __future__ import annotations

import pytest

from edge_node.cloud.fleet import CloudFleet, Dialling
from edge_node.privacy import EVERYTHING_MAY_LEAVE
from splitvlm.wire.v1 import data_pb2
from tests.nodes import until

ONE, TWO, THREE = "127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"


def fleet() -> CloudFleet:
    return CloudFleet(Dialling(data_pb2.Compatibility(), None, []), EVERYTHING_MAY_LEAVE)


async def test_the_first_is_used_and_the_others_stand_by() -> None:
    device = fleet()
    device.use([ONE, TWO, ONE, THREE])
    first = device.link
    assert first is not None
    assert [first.address, *(link.address for link in device.standby)] == [ONE, TWO, THREE]
    device.on_fault(first)
    assert device.link is not None
    assert device.link.address == TWO
    device.on_fault(first)  # it is not in use any more
    assert device.link.address == TWO
    device.link.health.reachable = False
    device.use_ready()
    assert device.link.address == THREE
    await device.close()


async def test_a_node_that_is_back_within_the_grace_keeps_its_link() -> None:
    """An orchestrator that starts again learns of its nodes one by one."""
    device = fleet()
    device.use([ONE, TWO])
    links = [device.link, *device.standby]
    device.use([TWO])
    device.use([ONE, TWO])
    assert [device.link, *device.standby] == links
    await until(lambda: not device.is_retiring)
    await device.close()


async def test_a_node_that_is_gone_leaves_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_node.cloud.fleet.GRACE_S", 0.05)
    device = fleet()
    device.use([ONE, TWO])
    with device.held() as (gone, *standby):  # a request that has not come to use it yet
        assert [link.address for link in standby] == [TWO]
        device.use([TWO])
        kept = device.link
        assert kept is not None
        closed: list[bool] = []
        real = gone.close

        async def close() -> None:
            closed.append(True)
            await real()

        monkeypatch.setattr(gone, "close", close)
        await until(lambda: not device.num_in_grace)  # the grace is over
        assert device.is_retiring
        assert not closed
    await until(lambda: not device.is_retiring)
    assert closed == [True]
    assert device.link is kept
    await device.close()
