"""The estimator on what really crossed the emulator: transfers of request size, probed round trips, a step down and up.

A transfer is predicted from earlier ones and then made. Tolerance 25 %: a transfer of 20 kB begins with packets that leave
an empty queue, and timers of a busy machine add milliseconds to it.
"""

import asyncio
import time

import pytest

from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.estimator import LinkEstimator
from splitvlm.link.tracefiles import load
from splitvlm.link.traces import Trace

pytestmark = pytest.mark.quiet

HOST, DELAY_S = "127.0.0.1", 0.02


async def acknowledge_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each message of a 4-byte length and so many bytes with one byte."""
    while head := await reader.read(4):
        await reader.readexactly(int.from_bytes(head, "big"))
        writer.write(b".")
    writer.close()


async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, n_bytes: int) -> float:
    began_s = time.monotonic()
    writer.write(n_bytes.to_bytes(4, "big") + bytes(n_bytes))
    await reader.readexactly(1)
    return time.monotonic() - began_s


@pytest.mark.parametrize("text", ["constant:300kbit", "step:4mbit@1.5,200kbit@20"])
async def test_a_transfer_takes_as_long_as_predicted(text):
    trace: Trace = load(text).up
    estimator = LinkEstimator()
    server = await asyncio.start_server(acknowledge_each, HOST, 0)
    upstream = server.sockets[0].getsockname()
    async with server, LinkEmulator((HOST, 0), upstream, LinkShape(trace, delay_s=DELAY_S)) as link:
        reader, writer = await asyncio.open_connection(HOST, link.port)
        estimator.on_rtt(await send(reader, writer, 1), time.monotonic())
        while time.monotonic() < link.t0_s + 3.5:  # of the step: more than two transfers on its slow side
            took_s = await send(reader, writer, 20_000)
            estimator.on_transfer(20_000, None, took_s, 0.0, time.monotonic())
        predicted_s = estimator.estimate(time.monotonic()).transfer_s(20_000)
        took_s = await send(reader, writer, 20_000)
        writer.close()
    print(f"{text}: predicted {predicted_s:.3f} s, took {took_s:.3f} s")
    assert took_s == pytest.approx(predicted_s, rel=0.25)
