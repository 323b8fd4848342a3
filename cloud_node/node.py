"""The cloud node's process: it starts a pool of workers, serves devices, tells the orchestrator.

Where the pool is Ray's, the workers are other processes, and this one loads no torch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cloud_node.control import Membership, Renewal, check_advertised, heartbeat, registration
from cloud_node.frontend.servicer import SERVICE, DataServicer
from cloud_node.pools.protocol import Pool
from cloud_node.settings import CHANGEABLE, CloudSettings
from splitvlm.crypto.identity import Identity
from splitvlm.node.lifecycle import background, end_now, identity_of, print_ready, stop_signals, until
from splitvlm.node.reload import reloading
from splitvlm.rpc.control_client import ControlClient
from splitvlm.rpc.servers import NodeServer
from splitvlm.wire.v1 import control_pb2 as pb


class Offer(NamedTuple):
    """Holds what the orchestrator is told of the workers."""

    entry: pb.Registration  # without this node's name and addresses
    renewal: Renewal | None  # None where the workers' profile is not measured anew


class Started(NamedTuple):
    """Holds a pool that serves."""

    pool: Pool
    offer: Callable[[], Awaitable[Offer]]


async def run(settings: CloudSettings, source: Path | None = None) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP reads `source` again. Raises the errors of configuration, keys, model and port."""
    identity = identity_of(settings.security)
    check_advertised(settings)
    started = await _started(settings, identity)
    ended = False
    try:
        await _serve(settings, source, identity, started)
    finally:
        ended = started.pool.close()
    if not ended:
        end_now()


async def _serve(settings: CloudSettings, source: Path | None, identity: Identity | None, started: Started) -> None:
    pool = started.pool
    servicer = DataServicer(pool, settings.limits, plaintext=identity is None)
    server = NodeServer(identity, [SERVICE])
    server.grpc.add_generic_rpc_handlers((servicer.handler(),))

    def apply(new: CloudSettings) -> None:
        servicer.use(new.limits)

    with stop_signals() as stop, reloading(source, settings, CHANGEABLE, apply):
        address = await server.listen(settings.listen)
        load = partial(heartbeat, settings, servicer, pool)
        member = await _join(settings, identity, address, started, load) if settings.orchestrator else None
        try:
            async with background(pool.watch(), *([member.stay()] if member else [])) as tasks:
                await server.set_ready()
                model, num_workers = settings.model.name, pool.load.num_workers
                print_ready("cloud", node=settings.node, listen=address, model=model, workers=num_workers)
                await until(stop, tasks)
                if member is not None:
                    await member.leave()
                await server.drain(settings.limits.drain_s)
        finally:
            if member is not None:
                await member.close()


async def _started(settings: CloudSettings, identity: Identity | None) -> Started:
    return await _ray(settings, identity) if settings.pool.kind == "ray" else _local(settings, identity)


def _local(settings: CloudSettings, identity: Identity | None) -> Started:
    from cloud_node.pools.local import LocalPool
    from cloud_node.worker.loading import load_worker, measured
    from splitvlm.model.dtype_choice import with_dtype
    from splitvlm.profiling.cached_profiles import renew

    settings = with_dtype(settings)
    worker = load_worker(settings, identity)

    async def offer() -> Offer:
        entry, profile = await measured(worker, settings)
        return Offer(entry, partial(renew, profile, worker))

    return Started(LocalPool(worker), offer)


async def _ray(settings: CloudSettings, identity: Identity | None) -> Started:
    from cloud_node.pools.ray import RayPool
    from cloud_node.worker.process import WorkerProcess

    pool = RayPool(settings, identity, WorkerProcess)
    await pool.start()

    async def offer() -> Offer:
        return Offer(pb.Registration.FromString(await pool.offer()), None)

    return Started(pool, offer)


async def _join(
    settings: CloudSettings,
    identity: Identity | None,
    address: str,
    started: Started,
    load: Callable[[], pb.HeartbeatRequest],
) -> Membership:
    """Makes ready to tell the orchestrator what the workers cost; they are measured, unless they were before."""
    assert settings.orchestrator is not None
    entry, renewal = await started.offer()
    client = ControlClient(settings.orchestrator, identity)
    return Membership(client, registration(settings, address, entry), load, renewal)
