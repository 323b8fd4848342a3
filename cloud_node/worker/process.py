"""One worker in a process of its own, as a pool of several processes starts it: model, engine, and a port for the front end.

Importing this module loads no torch: the front end names the class, and the worker's process makes the object.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from cloud_node.pools.relay import SERVICE, WorkerStatus
from cloud_node.settings import CloudLimits, CloudSettings
from cloud_node.worker.server import WorkerServicer
from splitvlm.node.lifecycle import identity_of
from splitvlm.node.logs import set_up
from splitvlm.planning.costs import CloudProfile
from splitvlm.rpc.addresses import joined
from splitvlm.rpc.profiles import cloud_profile_to_wire
from splitvlm.rpc.servers import NodeServer
from splitvlm.wire.v1.control_pb2 import Registration


class WorkerProcess:
    """Runs one worker; the pool calls its methods from another process. All but the constructor run in one event loop."""

    def __init__(self, settings_json: str, host: Callable[[], str]) -> None:
        """Loads the model. Raises errors of configuration, keys and model.

        `settings_json` are CloudSettings with whole paths; `host` returns the address of this machine for the front end.
        """
        from cloud_node.worker.loading import load_worker
        from splitvlm.model.dtype_choice import with_dtype

        settings = CloudSettings.model_validate_json(settings_json)
        set_up(settings.logging)
        self._settings = with_dtype(settings)
        self._host = host()
        self._identity = identity_of(self._settings.security)
        self._worker = load_worker(self._settings, self._identity)
        self._servicer = WorkerServicer(self._worker, self._identity)
        self._starting = asyncio.Lock()
        self._server: NodeServer | None = None  # gRPC's server belongs to the event loop in which it is made
        self._address = ""
        self._offer: Registration | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def status(self) -> WorkerStatus:
        """Returns where it listens, and its load; the first call makes it listen, also after a restart."""
        async with self._starting:
            if self._server is None:
                self._server = NodeServer(self._identity, [SERVICE])
                self._server.grpc.add_generic_rpc_handlers((self._servicer.handler(),))
                self._address = await self._server.listen(joined(self._host, 0))
                await self._server.set_ready()
        return WorkerStatus(self._address, os.getpid(), self._servicer.num_sessions, self._worker.mean_queue_s)

    async def offer(self) -> bytes:
        """Returns what the worker serves and costs, as a serialised `Registration` without a node.

        It is measured or kept at first, and measured anew in quiet times.
        """
        from cloud_node.worker.loading import measured_offer
        from splitvlm.profiling.cached_profiles import renew

        if self._offer is None:
            self._offer, profile = await measured_offer(self._worker, self._settings)
            self._renewal = asyncio.create_task(renew(profile, self._worker, self._renewed))
        return self._offer.SerializeToString()

    def _renewed(self, profile: CloudProfile) -> None:
        assert self._offer is not None
        del self._offer.clouds[:]
        self._offer.clouds.append(cloud_profile_to_wire(profile))

    async def use(self, limits_json: str) -> None:
        """Takes other limits, for sessions that open from now on."""
        self._worker.use(CloudLimits.model_validate_json(limits_json))
