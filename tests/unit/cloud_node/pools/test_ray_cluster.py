"""What is refused before Ray is asked for workers: Ray itself would wait, for minutes or for ever."""

from __future__ import annotations

import socket

import pytest

from cloud_node.pools.ray import _cause
from cloud_node.pools.ray_cluster import _cores, connected, require_room
from cloud_node.settings import PoolChoice, Workers
from splitvlm.errors import ConfigError


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    pytest.importorskip("ray", reason="Ray is not installed.")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConfigError, match=f"pool.address is 127.0.0.1:{port}, where nobody listens"):
        connected(PoolChoice(kind="ray", address=f"127.0.0.1:{port}"), "tests")


def test_workers_that_can_never_all_run_here_are_refused() -> None:
    pool = PoolChoice(kind="ray", workers=Workers(min=1, max=2), resources={"CPU": 2.0, "GPU": 1.0})
    require_room(pool, {"CPU": 4.0, "GPU": 2.0})
    with pytest.raises(ConfigError, match="asks for 1 GPU a worker, but this machine has 1 in all for 2"):
        require_room(pool, {"CPU": 4.0, "GPU": 1.0})


def test_ray_is_told_of_cores_for_all_workers_and_one_that_replaces_another_also_on_a_small_machine() -> None:
    assert _cores(100_000, {"CPU": 1.5}) == 150_002
    assert _cores(1, {}) >= 1


def test_more_workers_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(ValueError, match="min is 3, which is more than max, 2"):
        Workers(min=3, max=2)


def test_a_worker_s_own_sentence_is_told_without_ray_s_traceback() -> None:
    traceback = (
        "The actor died because of an error in its creation task\n  File x\nsplitvlm.errors.UsageError: No model."
    )
    assert _cause(RuntimeError(traceback)) == "No model."
    assert _cause(RuntimeError("The actor died: its machine went.")) == "The actor died: its machine went."
    assert _cause(RuntimeError()) == "RuntimeError"
