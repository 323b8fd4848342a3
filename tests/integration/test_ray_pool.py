"""Two workers on Ray behind one front end, over mutual TLS: one is killed amid an answer; all are replaced under load."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from cloud_node.frontend.servicer import SERVICE, DataServicer
from cloud_node.pools.ray import RayPool
from cloud_node.settings import CloudLimits, CloudSettings, PoolChoice, Workers
from cloud_node.worker.process import WorkerProcess
from splitvlm.crypto.identity import Identity, Role
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import reference_tokens
from splitvlm.node.lifecycle import background
from splitvlm.rpc.servers import NodeServer
from splitvlm.settings import ModelChoice, Security
from tests.nodes import Keys, device, until
from tests.samples import PICTURE, tiny_model

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed."),
]
MODEL = "scenes-like"
QUESTION = "Describe the picture."
NUM_TOKENS = 128
PAUSE_S = 0.3  # between a device's questions: workers that start, and other tests, have a share of the processors
PLANS = ("image/lossless", "vision:1/lossless", "tokens/lossless", "lm:1/lossless")


class Node:
    def __init__(self, keys: Keys, pool: RayPool, settings: CloudSettings, address: str) -> None:
        self.edges = [keys.identity(f"edge-{number + 1}", Role.EDGE) for number in range(2)]
        self.edge = self.edges[0]
        self.pool = pool
        self.settings = settings
        self.address = address


@pytest.fixture(scope="module")
def expected() -> list[int]:
    token_ids = reference_tokens(tiny_model(MODEL), [Prompt.about(PICTURE, QUESTION)], NUM_TOKENS)[0]
    assert len(set(token_ids)) > 2, "an answer of equal tokens would hide one that is lost or comes twice"
    return token_ids


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    keys = Keys(tmp_path_factory.mktemp("ray") / "keys")
    identity = keys.identity("cloud-1", Role.CLOUD)
    settings = CloudSettings(
        model=ModelChoice(name=tiny_model(MODEL), threads=1),
        pool=PoolChoice(kind="ray", workers=Workers(min=2, max=2)),
        security=Security(keys=keys.folder / "cloud-1"),
    )
    pool = RayPool(settings, identity, WorkerProcess)
    await pool.start()
    servicer, server = DataServicer(pool, CloudLimits(), plaintext=False), NodeServer(identity, [SERVICE])
    server.grpc.add_generic_rpc_handlers((servicer.handler(),))
    address = await server.listen("127.0.0.1:0")
    async with background(pool.watch()):
        yield Node(keys, pool, settings, address)
    await server.drain(1.0)
    pool.close()


async def test_a_worker_that_is_killed_amid_answers_costs_no_token(node: Node, expected: list[int]) -> None:
    """One answer of each plan runs in that worker."""
    process_ids = node.pool.process_ids
    async with device(tiny_model(MODEL), node.address, node.edge) as camera:
        runs = {plan: camera.run(plan, Prompt.about(PICTURE, QUESTION), NUM_TOKENS) for plan in PLANS}
        for run in runs.values():
            await anext(run)
        killed = node.pool.last_worker["edge-1"]
        os.kill(process_ids[killed], signal.SIGKILL)
        reports = await asyncio.gather(*map(camera.finish, runs.values()))
    for plan, report in zip(runs, reports, strict=True):
        assert report.token_ids == expected, plan
        [fault] = report.faults
        assert fault.code == "peer-unavailable"
        assert 0 < fault.tokens < NUM_TOKENS
    assert node.pool.last_worker["edge-1"] != killed
    await until(lambda: node.pool.process_ids.get(killed) not in (None, process_ids[killed]), timeout_s=90)


@contextlib.asynccontextmanager
async def load(node: Node) -> AsyncIterator[list[list[int]]]:
    """Two devices ask one question after another, under one plan after another; yields the answers that have come."""
    answers, ended = list[list[int]](), asyncio.Event()

    async def ask_on(edge: Identity, plans: Sequence[str]) -> None:
        for plan in itertools.cycle(plans):
            if ended.is_set():
                return
            async with device(tiny_model(MODEL), node.address, edge) as camera:
                report = await camera.finish(camera.run(plan, Prompt.about(PICTURE, QUESTION), NUM_TOKENS))
            answers.append(report.token_ids)
            await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as tasks:
        for edge, plans in zip(node.edges, (PLANS[::2], PLANS[1::2]), strict=True):
            tasks.create_task(ask_on(edge, plans))
        try:
            yield answers
        finally:
            ended.set()


async def test_a_rollout_under_load_replaces_every_worker_and_loses_nothing(node: Node, expected: list[int]) -> None:
    await until(lambda: node.pool.load.num_workers == 2, timeout_s=90)
    before = set(node.pool.process_ids.values())
    async with load(node) as answers:
        await until(lambda: len(answers) >= len(PLANS), timeout_s=90)
        node.pool.roll_out(node.settings.model_copy(update={"cuts": ["image", "vision:1", "tokens", "lm:1"]}))
        await until(lambda: before.isdisjoint(now := node.pool.process_ids.values()) and len(now) == 2, timeout_s=180)
        num_before_the_end = len(answers)
        await until(lambda: len(answers) >= num_before_the_end + len(PLANS), timeout_s=90)
    assert all(token_ids == expected for token_ids in answers)


@pytest.mark.slow
async def test_settings_that_no_worker_starts_with_are_taken_back_and_a_worker_goes_on(
    node: Node, expected: list[int]
) -> None:
    await until(lambda: node.pool.load.num_workers == 2, timeout_s=90)
    async with load(node) as answers:
        node.pool.roll_out(node.settings.model_copy(update={"cuts": ["lm:99"]}))
        await until(lambda: node.pool.load.num_workers < 2, timeout_s=90)
        await until(lambda: node.pool.load.num_workers == 2, timeout_s=180)
    assert len(answers) >= len(PLANS)
    assert all(token_ids == expected for token_ids in answers)


@pytest.mark.slow
async def test_scaling_down_and_up_under_load_loses_nothing(node: Node, expected: list[int]) -> None:
    await until(lambda: node.pool.load.num_workers == 2, timeout_s=90)
    async with load(node) as answers:
        for count in (1, 2, 1, 2):
            choice = node.settings.pool.model_copy(update={"workers": Workers(min=count, max=count)})
            node.pool.roll_out(node.settings.model_copy(update={"pool": choice}))
            await until(lambda: len(node.pool.process_ids) == node.pool.load.num_workers == count, timeout_s=120)  # noqa: B023
            num_at_change = len(answers)
            await until(lambda: len(answers) >= num_at_change + len(PLANS), timeout_s=90)  # noqa: B023
    assert all(token_ids == expected for token_ids in answers)


async def test_ray_takes_nobody_without_the_token_which_its_owner_alone_may_read(node: Node) -> None:
    import ray

    file = os.environ["RAY_AUTH_TOKEN_PATH"]
    assert os.stat(file).st_mode & 0o777 == 0o600
    address = ray.get_runtime_context().gcs_address
    wrong_token, no_token = {"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}
    answers = await asyncio.gather(*(joins(address, variables) for variables in ({}, wrong_token, no_token)))
    assert answers[0] == "joined"
    assert "joined" not in answers[1:]


async def joins(address: str, variables: dict[str, str]) -> str:
    """Returns `joined` where a process with these variables of its own may use the cluster, else why not."""
    program = f"import ray; ray.init(address={address!r}, log_to_driver=False); ray.nodes(); print('joined')"
    environment = os.environ | variables
    if variables:
        environment.pop("RAY_AUTH_TOKEN_PATH")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate()
    return output.decode().strip() or errors.decode()[-500:]
