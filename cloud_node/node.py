"""The cloud node's process: it starts a pool of workers, serves devices, tells the orchestrator.

Where the pool is Ray's, the workers are other processes, and this one loads no torch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cloud_node.control import Membership, Renewal, check_advertised, heartbeat, registration
from cloud_node.frontend.servicer import SERVICE, DataServicer
from cloud_node.pools.protocol import Pool
from cloud_node.settings import CHANGEABLE, ROLLED_OUT, CloudSettings
from splitvlm.crypto.identity import Identity
from splitvlm.errors import ConfigError
from splitvlm.node.collector import freeze_loaded_objects
from splitvlm.node.lifecycle import background, end_now, identity_of, print_ready, stop_signals, until
from splitvlm.node.reload import reloading
from splitvlm.rpc.control_client import ControlClient
from splitvlm.rpc.servers import NodeServer
from splitvlm.wire.v1 import control_pb2 as pb

_log = logging.getLogger("splitvlm.cloud")

OFFER_S = 5.0  # how often workers in other processes are asked what they serve and cost


class Offer(NamedTuple):
    """Holds what the orchestrator is told of the workers."""

    entry: pb.Registration  # without this node's name and addresses
    renewal: Renewal


class RunningPool(NamedTuple):
    """Holds a pool that serves, and what the orchestrator is told of it."""

    pool: Pool
    offer: Callable[[], Awaitable[Offer]]
    roll_out: Callable[[CloudSettings], None] | None = None  # gives the workers other settings, one after another


async def run(settings: CloudSettings, source: Path | None = None) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP reads `source` again. Raises the errors of configuration, keys, model and port."""
    identity = identity_of(settings.security)
    check_advertised(settings)
    running = await _start_pool(settings, identity)
    ended = False
    try:
        await _serve(settings, source, identity, running)
    finally:
        ended = running.pool.close()
    if not ended:
        end_now()


async def _serve(settings: CloudSettings, source: Path | None, identity: Identity | None, running: RunningPool) -> None:
    pool = running.pool
    servicer = DataServicer(pool, settings.limits, plaintext=identity is None)
    server = NodeServer(identity, [SERVICE])
    server.grpc.add_generic_rpc_handlers((servicer.handler(),))

    def apply(new: CloudSettings) -> None:
        if running.roll_out is not None:
            running.roll_out(new)
        servicer.use(new.limits)

    changeable = CHANGEABLE | (ROLLED_OUT if running.roll_out is not None else frozenset())
    with stop_signals() as stop, reloading(source, settings, changeable, apply):
        address = await server.listen(settings.listen)
        load = partial(heartbeat, settings, servicer, pool)
        member = await _join(settings, identity, address, running, load) if settings.orchestrator else None
        try:
            async with background(pool.watch(), *([member.stay()] if member else [])) as tasks:
                freeze_loaded_objects()
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


async def _start_pool(settings: CloudSettings, identity: Identity | None) -> RunningPool:
    return await _ray_pool(settings, identity) if settings.pool.kind == "ray" else _local_pool(settings, identity)


def _local_pool(settings: CloudSettings, identity: Identity | None) -> RunningPool:
    from cloud_node.pools.local import LocalPool
    from cloud_node.worker.loading import load_worker, measured_offer
    from splitvlm.model.dtype_choice import with_dtype
    from splitvlm.profiling.cached_profiles import renew
    from splitvlm.rpc.profiles import cloud_profile_to_wire

    settings = with_dtype(settings)
    worker = load_worker(settings, identity)

    async def offer() -> Offer:
        entry, profile = await measured_offer(worker, settings)

        def renewal(tell: Callable[[pb.Registration], None]) -> Coroutine[Any, Any, None]:
            return renew(profile, worker, lambda new: tell(pb.Registration(clouds=[cloud_profile_to_wire(new)])))

        return Offer(entry, renewal)

    return RunningPool(LocalPool(worker), offer)


async def _ray_pool(settings: CloudSettings, identity: Identity | None) -> RunningPool:
    from cloud_node.pools.ray import RayPool
    from cloud_node.worker.process import WorkerProcess

    pool = RayPool(settings, identity, WorkerProcess)
    await pool.start()

    async def offer() -> Offer:
        first = await pool.first_offer()
        return Offer(pb.Registration.FromString(first), partial(_follow, pool.offer, first))

    return RunningPool(pool, offer, pool.roll_out)


async def _follow(
    current: Callable[[], Awaitable[bytes | None]], told: bytes, tell: Callable[[pb.Registration], None]
) -> None:
    """Tells what workers serve and cost whenever it differs from what was told last. Ends by cancellation."""
    while True:
        await asyncio.sleep(OFFER_S)
        try:
            offer = await current()
        except ConfigError as error:
            _log.error("the orchestrator keeps what it was told: %s", error)
            continue
        if offer is not None and offer != told:
            tell(pb.Registration.FromString(offer))
            told = offer


async def _join(
    settings: CloudSettings,
    identity: Identity | None,
    address: str,
    running: RunningPool,
    load: Callable[[], pb.HeartbeatRequest],
) -> Membership:
    """Makes ready to tell the orchestrator what the workers cost; they are measured, unless they were before."""
    assert settings.orchestrator is not None
    entry, renewal = await running.offer()
    client = ControlClient(settings.orchestrator, identity)
    return Membership(client, registration(settings, address, entry), load, renewal)
