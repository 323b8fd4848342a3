"""What a cancelled read loses of the process' memory: with grpc.aio's own reads about 100 bytes each, with ours nothing.

Counted by the allocator's own figures, in a process of its own.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = 1_000
LEAST_LOST, MOST_LOST = 60.0, 30.0  # bytes a call: by gRPC's own reads on both sides, and by ours
PROGRAM = f"""
import asyncio, ctypes, gc, json
import grpc
from splitvlm.rpc.whole_steps import to_its_end

class MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = MallInfo

async def own(read, cancel_call=None):
    return await read

async def serve(step):
    async def answer(_requests, context):
        while await step(context.read()) is not grpc.aio.EOF:
            await context.write(b"x")
    server = grpc.aio.server()
    handlers = {{"Answer": grpc.stream_stream_rpc_method_handler(answer)}}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port

async def cancelled(answer, step):
    call = answer()
    await call.write(b"x")
    await step(call.read())
    reading = asyncio.create_task(step(call.read(), call.cancel))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await call.code()

async def lost_bytes(step):
    server, port = await serve(step)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{{port}}") as channel:
        answer = channel.stream_stream("/test/Answer")
        used = []
        for count in ({CALLS // 4}, {CALLS}, {CALLS}, {CALLS}):
            for _ in range(count // 10):
                await asyncio.gather(*(cancelled(answer, step) for _ in range(10)))
            await asyncio.sleep(0)
            gc.collect()
            used.append(libc.mallinfo2().uordblks)
    await server.stop(None)
    return min(after - before for before, after in zip(used, used[1:])) / {CALLS}  # what is lost is lost each time

print(json.dumps([asyncio.run(lost_bytes(step)) for step in (own, to_its_end)]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is asked")
def test_a_cancelled_read_loses_no_memory() -> None:
    """The first figure is why `to_its_end` exists: where it comes to nothing, gRPC is mended, and ours may go."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        check=True,
        capture_output=True,
        timeout=100,
    )
    by_grpc, by_ours = json.loads(done.stdout.splitlines()[-1])
    assert by_grpc > LEAST_LOST
    assert by_ours < MOST_LOST
