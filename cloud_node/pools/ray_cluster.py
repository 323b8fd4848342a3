"""Ray is started here, or an existing cluster is joined: what `cloud_node/pools/ray.py` needs before it has workers."""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from cloud_node.settings import PoolChoice
from splitvlm.errors import ConfigError, first_sentence
from splitvlm.host_port import host_and_port

OBJECT_STORE_BYTES = 80 * 2**20  # the least that Ray takes: nothing large goes through it
CONNECT_TIMEOUT_S = 5.0


def connected(pool: PoolChoice, namespace: str) -> Any:
    """Returns the module `ray`, connected to the cluster that the settings name, or to one that is started here.

    Raises ConfigError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves this machine
    os.environ.setdefault("RAY_worker_niceness", "0")  # a worker is no batch job, for which Ray has 15
    if pool.address is None:
        _use_own_token()
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "pool.kind is ray, which is not installed.", advice="pip install 'splitvlm[cloud]'"
        ) from error
    options = _options_here(pool) if pool.address is None else _options_there(pool.address)
    try:
        ray.init(namespace=namespace, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:
        raise ConfigError(
            f"Ray cannot be used: {first_sentence(error)}",
            advice="Check pool.address, and RAY_AUTH_TOKEN_PATH where the cluster asks for a token.",
        ) from error
    if pool.address is None:
        require_room(pool, ray.cluster_resources())
    return ray


def _options_here(pool: PoolChoice) -> dict[str, Any]:
    return {
        "address": "local",  # also where another cluster runs on this machine, or RAY_ADDRESS names one
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "num_cpus": _cores(pool.workers.max, pool.resources),
    }


def _options_there(address: str) -> dict[str, Any]:
    if address != "auto":
        _require_somebody_at(address)
    return {"address": address}


def _cores(most_workers: int, resources: dict[str, float]) -> int:
    """Returns the CPUs that Ray is told of: all workers have to find room, and one that replaces another, on any machine."""
    return max(os.cpu_count() or 1, math.ceil((most_workers + 1) * resources.get("CPU", 1.0)))


def _use_own_token() -> None:
    """Lets Ray ask for a token that lies in a file of this process: one that Ray makes itself may be read by everybody.

    A process keeps its token, for Ray reads it once.
    """
    file = Path(_token_folder().name) / "token"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(32), "ascii")
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)}


@cache
def _token_folder() -> tempfile.TemporaryDirectory[str]:
    """Returns a private folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="splitvlm-ray-")


def _require_somebody_at(address: str) -> None:
    """Raises ConfigError where nobody listens: Ray itself would try for minutes."""
    try:
        socket.create_connection(host_and_port(address), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ConfigError(
            f"pool.address is {address}, where nobody listens.", advice="Start Ray there: `ray start --head`."
        ) from error


def require_room(pool: PoolChoice, room: dict[str, float]) -> None:
    """Raises ConfigError where this machine alone can never run all workers: Ray would wait for another machine."""
    for name, amount in pool.resources.items():
        if amount * pool.workers.max > room.get(name, 0.0):
            raise ConfigError(
                f"pool.resources asks for {amount:g} {name} a worker, but this machine has {room.get(name, 0.0):g} in all "
                f"for {pool.workers.max}.",
                advice="Ask for less, for fewer workers, or set pool.address to a cluster that has it.",
            )
