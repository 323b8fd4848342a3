"""A cloud node whose thread computes for ever answers other calls meanwhile, and still ends when it is told to."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from cloud_node.worker import payload
from splitvlm.cli import main
from splitvlm.crypto.identity import Role
from splitvlm.errors import SplitvlmError
from splitvlm.model.batch.decoder import BatchedDecoder
from splitvlm.rpc.channels import open_channel
from splitvlm.wire.v1 import data_pb2, data_pb2_grpc
from tests.forked import ForkedProcess, start_forked
from tests.nodes import Keys, device
from tests.samples import PICTURE, tiny_model

PLANS = {"model": "tokens/lossless", "pictures": "image/jpeg75"}


def node_with_a_stuck_lane() -> None:
    """Is the cloud node of the configuration sys.argv[2], in which the lane sys.argv[1] never ends its first job."""

    def for_ever(*_: object, **__: object) -> None:
        print("busy", flush=True)
        time.sleep(3600)

    if sys.argv[1] == "model":
        BatchedDecoder.step = for_ever  # type: ignore[method-assign, assignment]
    else:
        payload.decode_picture = for_ever  # type: ignore[assignment]
    sys.argv[1:] = ["cloud", "--config", sys.argv[2]]
    main()


@pytest.mark.parametrize("lane", PLANS)
async def test_a_job_that_does_not_end_keeps_neither_others_nor_the_end_of_the_process(
    tmp_path: Path, lane: str
) -> None:
    model, keys = tiny_model("scenes-like"), Keys(tmp_path / "keys")
    keys.identity("cloud-1", Role.CLOUD)
    config = {"listen": "127.0.0.1:0", "model": {"name": model}, "limits": {"drain_s": 0.2}}
    path = tmp_path / "cloud.yaml"
    path.write_text(yaml.safe_dump(config | {"security": {"keys": str(tmp_path / "keys" / "cloud-1")}}))
    arguments = (lane, str(path))
    process = await start_forked(__name__, node_with_a_stuck_lane.__name__, arguments, tmp_path / "cloud.log")
    try:
        ready = await said(process, "ready")
        address = next(fact.partition("=")[2] for fact in ready.split() if fact.startswith("listen="))
        async with device(model, address, keys.identity("edge-1", Role.EDGE)) as camera:
            asking = asyncio.create_task(camera.ask(PLANS[lane], PICTURE, "How many?", 2))
            await said(process, "busy")
            async with open_channel(address, keys.identity("edge-2", Role.EDGE), Role.CLOUD) as channel:
                await data_pb2_grpc.DataStub(channel).Probe(data_pb2.ProbeRequest(), timeout=20)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 60) == 0
            with pytest.raises(SplitvlmError):
                await asking
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def said(process: ForkedProcess, word: str) -> str:
    """The next line with the word in it."""
    async with asyncio.timeout(100):
        while word not in (line := (await process.stdout.readline()).decode()):
            assert line, "the node ended"
    return line
