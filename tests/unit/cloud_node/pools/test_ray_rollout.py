"""A rollout of a Ray pool, with actors in this process: none is without a worker that serves, and what fails is taken back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cloud_node.pools import ray as ray_pool
from cloud_node.pools.ray import RayPool
from cloud_node.pools.relay import WorkerStatus
from cloud_node.settings import CloudSettings, PoolChoice, Workers
from splitvlm.node.lifecycle import background
from splitvlm.settings import ModelChoice
from tests.nodes import until


class RayError(Exception):
    pass


class ActorDiedError(RayError):
    pass


class Actor:
    """Answers as a worker's process does; settings with the model `broken` do not start."""

    def __init__(self, ray: Ray, settings: CloudSettings) -> None:
        self.settings = settings
        self.killed = False
        self.process_id = len(ray.actors) + 1
        self.status = SimpleNamespace(remote=self._status)
        self.use = SimpleNamespace(remote=lambda _limits: None)
        ray.actors.append(self)

    async def _status(self) -> WorkerStatus:
        if self.killed or self.settings.model.name == "broken":
            raise ActorDiedError
        return WorkerStatus(f"127.0.0.1:{20_000 + self.process_id}", self.process_id, 0, 0.0)


class Ray:
    """Stands for the module `ray`."""

    exceptions = SimpleNamespace(RayError=RayError, ActorDiedError=ActorDiedError)

    def __init__(self) -> None:
        self.actors: list[Actor] = []

    def remote(self, _worker_type: object) -> Any:
        def make(settings_json: str, _host: Callable[[], str]) -> Actor:
            return Actor(self, CloudSettings.model_validate_json(settings_json))

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=make))

    def kill(self, actor: Actor) -> None:
        actor.killed = True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0}

    def shutdown(self) -> None:
        self.actors.clear()


class Run:
    """A pool that is watched, and the fewest workers that served at any time."""

    def __init__(self, pool: RayPool, ray: Ray) -> None:
        self.pool = pool
        self.ray = ray
        self.fewest = pool.load.num_workers

    @property
    def models(self) -> list[str]:
        """The models of the workers that live, oldest first."""
        return [actor.settings.model.name for actor in self.ray.actors if not actor.killed]

    async def watch_load(self) -> None:
        while True:
            self.fewest = min(self.fewest, self.pool.load.num_workers)
            await asyncio.sleep(0)


def settings(count: int, model: str = "scenes") -> CloudSettings:
    return CloudSettings(
        model=ModelChoice(name=model), pool=PoolChoice(kind="ray", workers=Workers(min=count, max=count))
    )


@contextlib.asynccontextmanager
async def running(count: int) -> AsyncIterator[Run]:
    ray = Ray()
    logging.getLogger("splitvlm.cloud.pool").setLevel("INFO")  # as a node does: what is logged has to be a record, too
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_pool, "LOOK_S", 0.01)
        patch.setattr(ray_pool, "connected", lambda *_: ray)
        pool = RayPool(settings(count), None, object)
        await pool.start()
        run = Run(pool, ray)
        async with background(pool.watch(), run.watch_load()):
            yield run
        pool.close()


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_every_worker_is_replaced_and_one_serves_at_any_time(count: int) -> None:
    async with running(count) as run:
        run.pool.roll_out(settings(count, "shape:smolvlm-256m"))
        await until(lambda: run.models == count * ["shape:smolvlm-256m"])
        await until(lambda: run.pool.load.num_workers == count)
    assert run.fewest >= max(1, count - 1)


@pytest.mark.parametrize("count", [1, 2])
async def test_a_model_that_no_worker_starts_with_leaves_as_many_of_before(count: int) -> None:
    async with running(count) as run:
        run.pool.roll_out(settings(count, "broken"))
        await until(lambda: len(run.ray.actors) > count)
        await until(lambda: run.pool.load.num_workers == count)
        assert {model for model in run.models if model != "broken"} == {"scenes"}
        run.pool.roll_out(settings(count, "shape:smolvlm-256m"))
        await until(lambda: [m for m in run.models if m != "broken"] == count * ["shape:smolvlm-256m"])
    assert run.fewest >= max(1, count - 1)


async def test_the_number_of_workers_follows_its_bounds_up_and_down() -> None:
    async with running(1) as run:
        for count in (2, 3, 1):
            run.pool.roll_out(settings(count))
            await until(lambda: run.pool.load.num_workers == count)  # noqa: B023
            await until(lambda: len(run.models) == count)  # noqa: B023
    assert run.fewest >= 1
