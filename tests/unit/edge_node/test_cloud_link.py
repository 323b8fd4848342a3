"""What a cloud node says of times and bytes counts as far as it agrees with the device's own clock and bytes."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from edge_node.cloud.link import CloudLink
from edge_node.cloud.uploads import Receipt, Upload
from splitvlm.wire.v1 import data_pb2 as pb

MOST = 2**64 - 1


class Says:
    """A cloud node's stub that answers probes after 20 ms and claims any time of its own."""

    def __init__(self, server_us: int) -> None:
        self._reply = pb.ProbeReply(server_us=server_us)

    async def Probe(self, request: pb.ProbeRequest, **_: float) -> pb.ProbeReply:
        await asyncio.sleep(0.02)
        return self._reply


@pytest.fixture
async def link():
    made = CloudLink("127.0.0.1:1", pb.Compatibility(), None, [])
    yield made
    await made.close()


@pytest.mark.parametrize("server_us", [1_000_000, 3_600_000_000, MOST])
async def test_a_probe_s_server_time_is_no_longer_than_the_probe(link: CloudLink, server_us: int) -> None:
    before = link.estimate()
    for size in (0, 4_096):
        await link.prober.probe_once(Says(server_us), size)
    assert link.estimate() == before


async def test_a_probe_s_honest_server_time_is_taken_off(link: CloudLink) -> None:
    began_s = time.perf_counter()
    await link.prober.probe_once(Says(15_000), 0)
    elapsed_s = time.perf_counter() - began_s
    assert 0.004 < link.estimate().rtt_s <= elapsed_s - 0.015


@pytest.mark.parametrize("receipt", [Receipt(20_000, 1e-6 * MOST), Receipt(MOST, 0.0), Receipt(MOST, 0.005)])
async def test_a_receipt_tells_of_no_more_than_was_sent_and_no_longer_than_it_took(
    link: CloudLink, receipt: Receipt
) -> None:
    link.meter.estimator.on_rtt(0.02, 0.0)
    upload = Upload(received_bytes=receipt.num_bytes, elapsed_s=0.34, receipt=receipt)
    link.meter.on_request_end(upload, sealed_bytes=20_000)
    estimate = link.estimate()
    assert 0 < estimate.uplink_bps <= max(8 * 20_000 / 0.005, 5e6)
    assert 0 < estimate.rtt_s < 0.34
    assert math.isfinite(estimate.transfer_s(20_000))


async def test_the_first_question_waits_for_the_first_measurement_and_later_ones_do_not(
    link: CloudLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_node.cloud.prober.PROBE_TIMEOUT_S", 0.2)
    waiting = asyncio.create_task(link.first_look())
    await asyncio.sleep(0)
    assert not waiting.done()
    await link.prober.probe()  # nobody listens there: that is known then
    await asyncio.wait_for(waiting, 60)
    assert not link.health.reachable
    await asyncio.wait_for(link.first_look(), 60)


async def test_a_session_s_set_up_is_the_first_reading_of_the_rate(link: CloudLink) -> None:
    """1.2 kB in 300 ms and a round trip of 40: no more than 40 kbit/s, where 5 Mbit/s was supposed."""
    link.meter.estimator.on_rtt(0.04, 0.0)
    link.meter.estimator.on_transfer(1_200, None, 0.34, 0.0, 0.3)
    assert link.meter.estimator.estimate(0.3).uplink_bps <= 40e3
