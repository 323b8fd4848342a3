"""Two workers on Ray behind one front end, over mutual TLS; one of them is killed in the middle of an answer."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cloud_node.frontend.servicer import SERVICE, DataServicer
from cloud_node.pools.ray import RayPool
from cloud_node.settings import CloudLimits, CloudSettings, PoolChoice, Workers
from cloud_node.worker.process import WorkerProcess
from splitvlm.crypto.identity import Role
from splitvlm.model.reference import reference_tokens
from splitvlm.node.lifecycle import background
from splitvlm.rpc.servers import NodeServer
from splitvlm.settings import ModelChoice, Security
from tests.nodes import Keys, device, until
from tests.samples import PICTURE, tiny_model

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed."),
]
MODEL = "scenes-like"
QUESTION = "Describe the picture."
NUM_TOKENS = 128
PLANS = ("image/lossless", "vision:1/lossless", "tokens/lossless", "lm:1/lossless")


class Node:
    def __init__(self, keys: Keys, pool: RayPool, address: str) -> None:
        self.edge = keys.identity("edge-1", Role.EDGE)
        self.pool = pool
        self.address = address


@pytest.fixture(scope="module")
def expected() -> list[int]:
    token_ids = reference_tokens(tiny_model(MODEL), [(PICTURE, QUESTION)], NUM_TOKENS)[0]
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
        yield Node(keys, pool, address)
    await server.drain(1.0)
    pool.close()


async def test_a_worker_that_is_killed_amid_answers_costs_no_token(node: Node, expected: list[int]) -> None:
    """One answer of each plan runs in that worker."""
    process_ids = node.pool.process_ids
    async with device(tiny_model(MODEL), node.address, node.edge) as camera:
        runs = {plan: camera.run(plan, PICTURE, QUESTION, NUM_TOKENS) for plan in PLANS}
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
