"""The fault laboratory with the workers of its one cloud node on Ray: two workers, each on a Ray node of its own.

The Ray cluster is started here, with a head that takes no worker, so that it outlives the front end and any Ray node.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil

from tests.e2e.laboratory import HEALED_TIMEOUT_S, Laboratory

NUM_WORKERS = 2
NODE_ARGS = {"object_store_memory": 80 * 2**20}  # the least that Ray takes


class RayLaboratory(Laboratory):
    """Knows the workers by what the front end logs of them."""

    NUM_CLOUDS: ClassVar[int] = 1
    FAULTS: ClassVar[tuple[str, ...]] = (
        "kill_worker",
        "kill_ray_node",
        "kill",
        "stop",
        "kill_worker",
        "kill_ray_node",
        "reset",
        "half_open",
        "slow",
        "no_orchestrator",
    )

    def __init__(self, folder: Path) -> None:
        """Takes an empty folder."""
        super().__init__(folder)
        self._cluster: Any = None

    async def __aenter__(self) -> RayLaboratory:
        """Starts the Ray cluster, then everything else."""
        _ask_for_token(self.launcher.folder / "ray-token")
        self._cluster = await asyncio.to_thread(_cluster)
        self._stack.push_async_callback(asyncio.to_thread, self._cluster.shutdown)
        await super().__aenter__()
        return self

    def cloud_settings(self, number: int) -> dict[str, object]:
        """Returns the settings of the cloud node, with the pool on Ray."""
        workers = {"min": NUM_WORKERS, "max": NUM_WORKERS}
        pool = {"kind": "ray", "address": self._cluster.address, "workers": workers}
        return super().cloud_settings(number) | {"pool": pool}

    async def healed(self) -> str:
        """Waits until both workers serve and the device has the cloud node again; returns its address."""
        async with asyncio.timeout(HEALED_TIMEOUT_S):
            while len(self._workers()[0]) < NUM_WORKERS:  # noqa: ASYNC110  another process writes that log
                await asyncio.sleep(0.1)
        return await super().healed()

    async def kill_worker(self, address: str) -> Callable[[], Awaitable[None]]:
        """Kills the worker of the last session. Ray starts it again."""
        os.kill(self._process_in_use(), signal.SIGKILL)
        return _nothing

    async def kill_ray_node(self, address: str) -> Callable[[], Awaitable[None]]:
        """Kills the Ray node on which that worker runs, and later starts another one."""
        raylet = psutil.Process(self._process_in_use()).parent()
        assert raylet is not None
        [node] = [node for node in self._cluster.worker_nodes if raylet.pid in _process_ids(node)]
        raylet.kill()

        async def mend() -> None:
            await asyncio.to_thread(self._cluster.remove_node, node, allow_graceful=False)
            await asyncio.to_thread(self._cluster.add_node, num_cpus=1, **NODE_ARGS)

        return mend

    def _process_in_use(self) -> int:
        serving, in_use = self._workers()
        return serving.get(in_use) or next(iter(serving.values()))

    def _workers(self) -> tuple[dict[str, int], str]:
        """Returns the processes of the workers that serve, by name, and the worker of the last session."""
        serving, in_use = dict[str, int](), ""
        [front_end] = self.clouds.values()
        for entry in _entries(front_end.log):
            match entry["event"]:
                case "workers start":
                    serving, in_use = {}, ""
                case "worker serves":
                    serving[entry["worker"]] = entry["process_id"]
                case "worker lost":
                    serving.pop(entry["worker"], None)
                case "session placed":
                    in_use = entry["worker"]
        return serving, in_use


def _ask_for_token(file: Path) -> None:
    """Lets this process and those that it starts use a Ray cluster that takes nobody else."""
    file.touch(0o600)
    file.write_text(secrets.token_hex(32), "ascii")
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file), "RAY_USAGE_STATS_ENABLED": "0"}


def _cluster() -> Any:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, **NODE_ARGS}
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)  # that is for the main thread
    for _ in range(NUM_WORKERS):
        cluster.add_node(num_cpus=1, **NODE_ARGS)
    return cluster


def _process_ids(node: Any) -> set[int]:
    return {each.process.pid for started in node.all_processes.values() for each in started}


def _entries(log: Path) -> Iterator[dict[str, Any]]:
    """Yields the log's lines of JSON; what libraries wrote is left out, and so is a line that is not whole yet."""
    for line in log.read_text("utf-8", "replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line)
            if isinstance(entry, dict) and "event" in entry:
                yield entry


async def _nothing() -> None:
    pass
