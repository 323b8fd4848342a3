"""Variants over real processes: the planner picks another form of the device's part by itself as a limit moves."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import pytest
import yaml

from splitvlm.crypto.identity import Role
from splitvlm.domain import TOKENS, Plan
from splitvlm.errors import HandshakeRefused, PeerUnavailable, UsageError
from splitvlm.local_model import LocalModel
from splitvlm.model.prompt import Prompt
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.tools.launcher import Launcher, Node
from splitvlm.variants.folder import Variant, memory_of
from splitvlm.variants.make import make_variant
from splitvlm.wire.v1.local_pb2 import StatusReply
from tests.e2e.test_processes import QUESTION, ask, status_when
from tests.forked import ForkedLauncher
from tests.samples import PICTURE
from tests.tiny_models import save
from tests.variants import short_variant

VISION_LAYERS = 16  # so that a tower of one of them is faster beyond the noise of a busy machine
FULL, SHORT = "tokens/lossless", "tokens/lossless@short"
PLANNING = {"cuts": ["tokens"], "levels": ["lossless"], "max_kind_drop": None}


@cache
def deep_model() -> str:
    """The folder of a tiny model with a deep tower."""
    return str(save("scenes-like", Path(mkdtemp(prefix="splitvlm-deep-")), vision_layers=VISION_LAYERS))


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with ForkedLauncher(tmp_path) as made:
        yield made


@pytest.fixture
def short(tmp_path: Path) -> Variant:
    return short_variant(deep_model(), tmp_path / "short", drop=0.05)


def common(short: Variant) -> dict[str, object]:
    return {"model": {"name": deep_model(), "threads": 1}, "variants": [str(short.folder)]}


async def start(launcher: Launcher, short: Variant, **planning: object) -> tuple[Node, EdgeClient]:
    """An edge node on a slow machine, so that a tower's time decides, with its orchestrator and a cloud node."""
    orchestrator = await launcher.start("orchestrator", {"heartbeat_s": 0.5})
    served = common(short) | {"orchestrator": orchestrator.address}
    await launcher.start("cloud", served)
    settings = {"planning": PLANNING | planning, "emulation": {"slowdown": 50}}
    edge = await launcher.start("edge", served | settings)
    return edge, EdgeClient(edge.address, launcher.identity("app", Role.APP))


async def plans_when(client: EdgeClient, wanted: set[str]) -> None:
    plans: set[str] = set()

    def as_wanted(status: StatusReply) -> bool:
        nonlocal plans
        plans = {row.plan for row in status.plans}
        return plans == wanted and status.cloud_reachable

    try:
        await status_when(client, as_wanted)
    except TimeoutError as error:
        raise AssertionError(f"the table has {plans}, not {wanted}") from error


async def test_the_planner_picks_another_form_as_the_accuracy_limit_moves(launcher: Launcher, short: Variant) -> None:
    edge, client = await start(launcher, short)
    await status_when(client, lambda status: status.cloud_reachable and SHORT in {row.plan for row in status.plans})
    fast, report = await ask(client, PICTURE, QUESTION, max_new_tokens=6)
    assert report.plan == SHORT
    config = launcher.folder / "edge-1.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["planning"]["max_accuracy_drop"] = 0.01
    config.write_text(yaml.safe_dump(settings))
    edge.process.send_signal(signal.SIGHUP)
    await plans_when(client, {FULL})
    exact, report = await ask(client, PICTURE, QUESTION, max_new_tokens=6)
    assert report.plan == FULL
    local = LocalModel.load(deep_model(), [TOKENS], variants=[short], threads=1)
    expected = {plan: local.answer(Prompt.about(PICTURE, QUESTION), Plan.parse(plan), 6).text for plan in (FULL, SHORT)}
    assert {FULL: exact, SHORT: fast} == expected
    assert fast != exact, "a tower of one layer sees other things"
    await client.close()


async def test_the_planner_picks_the_form_that_memory_has_room_for(launcher: Launcher, short: Variant) -> None:
    spec = LocalModel.load(deep_model(), [TOKENS]).device.spec
    least, most = memory_of(short, spec, TOKENS), memory_of(None, spec, TOKENS)
    _, client = await start(launcher, short, device_memory_bytes=(least + most) // 2)
    await plans_when(client, {SHORT})
    assert (await ask(client, PICTURE, QUESTION, max_new_tokens=4))[1].plan == SHORT
    with pytest.raises(UsageError, match="does not serve the cut tokens"):
        await ask(client, PICTURE, QUESTION, max_new_tokens=4, plan=FULL)
    await client.close()


@pytest.mark.skipif(find_spec("onnxruntime") is None or find_spec("onnx") is None, reason="extra `variants` is missing")
async def test_an_exported_stage_answers_as_the_model_does(launcher: Launcher, tmp_path: Path) -> None:
    exported = make_variant("onnx", deep_model(), tmp_path / "onnx", samples=2)
    cloud = await launcher.start("cloud", common(exported))
    planning = {"cuts": ["tokens", "device"]}
    edge = await launcher.start("edge", common(exported) | {"cloud": cloud.address, "planning": planning})
    client = EdgeClient(edge.address, launcher.identity("app", Role.APP))
    asked = {
        plan: await ask(client, PICTURE, QUESTION, max_new_tokens=6, plan=plan)
        for plan in (FULL, "tokens/lossless@onnx", "device/none@onnx")
    }
    assert len({text for text, _ in asked.values()}) == 1
    assert [report.plan for _, report in asked.values()] == list(asked)
    assert "variant onnx: " in edge.log.read_text(), "which back end was chosen"
    await client.close()


async def test_another_variant_of_the_same_name_is_refused_by_name(
    launcher: Launcher, short: Variant, tmp_path: Path
) -> None:
    other = short_variant(deep_model(), tmp_path / "other", seed=1)
    cloud = await launcher.start("cloud", common(other))
    edge = await launcher.start("edge", common(short) | {"cloud": cloud.address, "planning": {"fixed_plan": SHORT}})
    client = EdgeClient(edge.address, launcher.identity("app", Role.APP))
    with pytest.raises(HandshakeRefused, match=f"variant short .device {short.hash[:12]}, cloud {other.hash[:12]}"):
        await ask(client, PICTURE, QUESTION, max_new_tokens=4)
    await client.close()


async def test_a_cloud_node_without_the_variant_names_it(launcher: Launcher, short: Variant) -> None:
    cloud = await launcher.start("cloud", common(short) | {"variants": []})
    edge = await launcher.start("edge", common(short) | {"cloud": cloud.address, "planning": {"fixed_plan": FULL}})
    client = EdgeClient(edge.address, launcher.identity("app", Role.APP))
    assert (await ask(client, PICTURE, QUESTION, max_new_tokens=4))[1].plan == FULL
    with pytest.raises(UsageError, match="does not serve the variant short"):
        await ask(client, PICTURE, QUESTION, max_new_tokens=4, plan=SHORT)
    await client.close()


async def test_a_changed_file_ends_a_start(launcher: Launcher, short: Variant) -> None:
    with (short.folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(
        PeerUnavailable, match=r"variants: The variant short is not as it was made: .*model\.safetensors"
    ):
        await launcher.start("edge", common(short))
