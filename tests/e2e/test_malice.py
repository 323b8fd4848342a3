"""A cloud node among malicious clients, all of them processes: its memory stays in its budget, good ones are answered."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from edge_node.answering.report import RequestReport
from splitvlm.crypto.authority import issue
from splitvlm.crypto.identity import Role
from splitvlm.rpc.channels import open_channel
from splitvlm.tools.launcher import Launcher, Node
from splitvlm.wire.v1 import control_pb2, control_pb2_grpc
from tests.e2e.malice import many_scans
from tests.nodes import Device, device
from tests.samples import PICTURE, tiny_model

MIB = 2**20
WORKING_BYTES = 256 * MIB
SLACK_BYTES = 64 * MIB  # allocators, threads, and what the good client takes
QUESTION = "How many cells are infected?"
PLANS = ("image/jpeg75", "vision:1/lossless", "tokens/lossless", "lm:1/lossless")
ATTACKERS = 8
ROUNDS = 1  # of each attack
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")


def kib(node: Node, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{node.process.pid}/status").read_text())
    assert found is not None
    return int(found[1])


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with Launcher(tmp_path) as one:
        yield one


@pytest.mark.slow
@pytest.mark.parametrize("only", ["pictures_of_many_pixels", "sent_and_not_ended", ""])
async def test_malicious_clients_take_no_more_than_the_budget_and_good_ones_lose_nothing(
    launcher: Launcher, only: str
) -> None:
    model = tiny_model("scenes-like")
    limits = {"working_bytes": WORKING_BYTES, "max_sessions": 100, "max_upload_s": 5.0, "prefix_cache_bytes": 0}
    orchestrator = await launcher.start("orchestrator", {})
    settings = {"model": {"name": model, "threads": 1}, "limits": limits, "orchestrator": orchestrator.address}
    cloud, good = await launcher.start("cloud", settings), launcher.identity("good", Role.EDGE)
    async with (
        device(model, cloud.address, good) as camera,
        open_channel(orchestrator.address, good, Role.ORCHESTRATOR) as channel,
    ):
        control = control_pb2_grpc.ControlStub(channel)
        expected = {plan: (await camera.ask(plan, PICTURE, QUESTION, 4)).token_ids for plan in PLANS}
        before = reset_peak(cloud)
        malice = await start_malice(launcher, cloud, orchestrator, model, ("--only", only) if only else ())
        attacking = asyncio.create_task(malice.communicate())
        while not attacking.done():
            for plan in PLANS:
                assert (await asked(camera, plan)).token_ids == expected[plan]
            nodes = (await control.Nodes(control_pb2.NodesRequest(), timeout=30)).nodes
            assert [node.alive for node in nodes if node.node == "cloud-1"] == [True]
        said, _ = await attacking
        made = json.loads(said.splitlines()[-1])["attacks"]
        assert len(made) == (1 if only else 7)
        assert set(made.values()) == {ROUNDS * ATTACKERS}
        print("peak above base, MiB:", (kib(cloud, "VmHWM") - before) // 1024)
        assert 1024 * (kib(cloud, "VmHWM") - before) <= WORKING_BYTES + SLACK_BYTES
        assert (await asked(camera, PLANS[0])).token_ids == expected[PLANS[0]]
    assert await cloud.stop() == await orchestrator.stop() == 0


def reset_peak(node: Node) -> int:
    """Resident memory now, in KiB, from where the peak counts again."""
    Path(f"/proc/{node.process.pid}/clear_refs").write_text("5")
    return kib(node, "VmRSS")


async def asked(camera: Device, plan: str) -> RequestReport:
    async with asyncio.timeout(60):
        return await camera.ask(plan, PICTURE, QUESTION, 4)


async def start_malice(
    launcher: Launcher, cloud: Node, orchestrator: Node, model: str, options: Sequence[str]
) -> asyncio.subprocess.Process:
    keys = [str(issue(launcher.keys, f"mallory-{number}", Role.EDGE)) for number in range(ATTACKERS)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.e2e.malice", "--cloud", cloud.address, "--model", model, "--keys", *keys),
        *("--orchestrator", orchestrator.address, *options, "--held", "2", "--rounds", str(ROUNDS)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).strip() == b"ready"
    return process


def test_the_picture_of_many_scans_has_them() -> None:
    assert many_scans(64, 800).count(b"\xff\xda") > 800
