"""An edge node's process under load: its peak memory is bounded, and it ends in time although a stage runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from splitvlm.crypto.identity import Role
from splitvlm.domain import Conversation
from splitvlm.errors import CapacityError, SplitvlmError
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.tools.launcher import Launcher, Node
from tests.forked import ForkedLauncher
from tests.picture_files import saved
from tests.samples import PICTURE, tiny_model

QUESTION = "How many cells are infected?"
WORKING_BYTES = 400 * 2**20
SLACK_BYTES = 48 * 2**20  # the files themselves, and what allocators keep


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with Launcher(tmp_path) as one:
        yield one


def resident_bytes(node: Node, field: str) -> int:
    status = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in status if line.startswith(field)).split()[1])


def reset_peak(node: Node) -> None:
    """The kernel's high-water mark begins again (proc(5), clear_refs)."""
    Path(f"/proc/{node.process.pid}/clear_refs").write_text("5")


async def outcome(client: EdgeClient, data: bytes) -> str:
    try:
        async for _ in client.ask(Conversation.about(QUESTION), [data], max_new_tokens=2):
            pass
    except CapacityError:
        return "no room"
    return "answered"


async def test_small_files_of_large_pictures_stay_within_the_memory_for_them(launcher: Launcher) -> None:
    settings = {
        "model": {"name": tiny_model("scenes-like"), "threads": 1},
        "planning": {"cuts": ["device"]},
        "limits": {"working_bytes": WORKING_BYTES, "questions": 12},
    }
    edge = await launcher.start("edge", settings)
    client = EdgeClient(edge.address, launcher.identity("app", Role.APP))
    assert await outcome(client, saved(PICTURE, "PNG")) == "answered"
    base = resident_bytes(edge, "VmRSS")
    reset_peak(edge)
    large = saved(Image.new("L", (3600, 3600)), "PNG")
    assert len(large) < 50_000
    outcomes = await asyncio.gather(*(outcome(client, large) for _ in range(12)))
    assert set(outcomes) == {"answered", "no room"}
    peak = resident_bytes(edge, "VmHWM")
    assert peak <= base + WORKING_BYTES + SLACK_BYTES
    assert await outcome(client, large) == "answered"
    await client.close()
    assert await edge.stop() == 0


async def test_a_node_ends_in_time_although_a_stage_runs_on(tmp_path: Path) -> None:
    settings = {
        "model": {"name": tiny_model("scenes-like"), "threads": 1},
        "planning": {"cuts": ["device"]},
        "emulation": {"slowdown": 1000},
        "drain_s": 0.5,
    }
    async with ForkedLauncher(tmp_path) as launcher:
        edge = await launcher.start("edge", settings)
        client = EdgeClient(edge.address, launcher.identity("app", Role.APP))
        answer = client.ask(Conversation.about(QUESTION), [saved(PICTURE, "PNG")], max_new_tokens=2)
        assert (await anext(answer)).HasField("chosen")
        asking = asyncio.ensure_future(anext(answer))
        assert await edge.stop() == 0, "it was not killed"
        with pytest.raises(SplitvlmError):
            await asking
        await client.close()
