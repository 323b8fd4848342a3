"""The pool on Ray: workers are placed, watched, restarted and scaled by Ray, on one machine or many.

Ray carries control only, about once a second and worker. A session's envelopes go over gRPC, straight from the front end to the
worker that holds it. A worker that dies breaks its sessions, which devices replay; Ray starts it again.

Ray's own ports are for a trusted network (docs/guide/cloud.md). A cluster that is started here asks for a token, which lies in
a file that its owner alone may read. Only this file and ray_cluster.py import Ray.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from typing import Any

from cloud_node.pools.member import Member, burden, what_runs
from cloud_node.pools.protocol import EnvelopeStream, PoolLoad, Worker
from cloud_node.pools.ray_cluster import connected, require_room
from cloud_node.pools.relay import RemoteWorker, WorkerStatus
from cloud_node.pools.scaling import Scaling
from cloud_node.settings import CloudLimits, CloudSettings
from splitvlm import CIPHER_SUITES
from splitvlm.crypto.identity import Identity
from splitvlm.errors import CapacityError, ConfigError, PeerUnavailable
from splitvlm.node.allocator import ENVIRONMENT

LOOK_S = 1.0  # how often workers are asked for their load
ANSWER_S = 10.0  # that a worker's process may take to answer; its event loop does not compute
FULL_RETRY_S = 2.0  # a worker that starts again loads its model
MAX_LAST_WORKERS = 10_000  # devices whose last worker is kept, where their pictures' prefixes may be cached

_log = logging.getLogger("splitvlm.cloud.pool")


class RayPool:
    """Implements `Pool` (protocol.py) with one Ray actor a worker."""

    def __init__(self, settings: CloudSettings, identity: Identity | None, worker_type: type[Any]) -> None:
        """Takes each actor's class, whose `status`, `offer` and `use` are called (cloud_node/worker/process.py)."""
        self._worker_type = worker_type
        self._settings = settings
        self._before: CloudSettings | None = None  # while nothing has shown that a rollout's settings work
        self._identity = identity
        self._scaling = Scaling(settings.pool.workers.min, settings.pool.workers.max)
        self._members: dict[str, Member] = {}
        self._started = 0
        self.last_worker: OrderedDict[str, str] = OrderedDict()  # by device, the name of its last session's
        self._closed: list[RemoteWorker] = []
        self._ray: Any = None

    async def start(self) -> None:
        """Connects to Ray, or starts it here, and waits until the least number of workers serve. Raises ConfigError."""
        namespace = (
            f"splitvlm-{self._settings.node}-{secrets.token_hex(4)}"  # workers of a killed front end end a bit later
        )
        self._ray = await asyncio.to_thread(connected, self._settings.pool, namespace)
        for _ in range(self._settings.pool.workers.min):
            self._add()
        first = list(self._members.values())
        _log.info("workers start", extra={"workers": len(first)})
        try:
            await asyncio.gather(*(self._wait(member) for member in first))
        except self._ray.exceptions.RayError as error:
            self.close()
            raise ConfigError(
                f"A worker does not start: {_cause(error)}", advice="The log of Ray's worker says more."
            ) from error

    async def watch(self) -> None:
        """Asks workers for their load and scales, each second. Ends by cancellation."""
        while True:
            await asyncio.sleep(LOOK_S)
            for member in self._members.values():
                if member.look is None or member.look.done():  # one that loads its model answers late
                    if member.look is not None:
                        member.look.result()
                    member.look = asyncio.create_task(self._look(member))
            self._scale()
            while self._closed:
                await self._closed.pop().close()

    @property
    def load(self) -> PoolLoad:
        serving = [member for member in self._members.values() if member.serves]
        mean_s = sum(member.queue_s for member in serving) / len(serving) if serving else 0.0
        return PoolLoad(len(serving), mean_s)

    @property
    def process_ids(self) -> dict[str, int]:
        """Returns the workers' process ids by name, on whichever machine they run; those that start are not among them."""
        return {member.name: member.process_id for member in self._members.values() if member.remote is not None}

    def worker_for(self, device: str) -> Worker:
        serving = {member.name: member for member in self._members.values() if member.serves}
        if not serving:
            raise CapacityError(
                "No worker of this cloud node serves now.",
                advice=f"Try again in {FULL_RETRY_S:g} s.",
                retry_after_s=FULL_RETRY_S,
            )
        member = serving.get(self.last_worker.get(device, "")) or min(serving.values(), key=burden)
        self.last_worker[device] = member.name
        self.last_worker.move_to_end(device)
        if len(self.last_worker) > MAX_LAST_WORKERS:
            self.last_worker.popitem(last=False)
        _log.info("session placed", extra={"device": device, "worker": member.name})
        return _MonitoredWorker(self, member)

    def use(self, limits: CloudLimits) -> None:
        self._settings = self._settings.model_copy(update={"limits": limits})
        for member in self._members.values():
            member.actor.use.remote(limits.model_dump_json())

    def roll_out(self, settings: CloudSettings) -> None:
        """Replaces the workers one after another by such with these settings, where they say another model, cuts or resources.

        Where the first of them does not start, the settings of before hold again. Raises ConfigError where this machine alone
        has to run them and has no room.
        """
        if settings.pool.address is None:
            require_room(settings.pool, self._ray.cluster_resources())
        before, self._settings = self._settings, settings
        self._scaling.use(settings.pool.workers.min, settings.pool.workers.max)
        if what_runs(settings) != what_runs(before):
            self._before = self._before or before
            _log.info("rollout begins", extra={"model": settings.model.name, "workers": len(self._members)})

    async def first_offer(self) -> bytes:
        """Returns `offer`, once a worker can say."""
        while (offer := await self.offer()) is None:  # noqa: ASYNC110  another process starts it
            await asyncio.sleep(LOOK_S)
        return offer

    async def offer(self) -> bytes | None:
        """Returns what a worker with the settings of now serves and costs; None where none can say.

        It is a serialised `Registration` without this node's name and addresses. Raises ConfigError where measuring fails.
        """
        member = next((m for m in self._members.values() if m.serves and not self._is_outdated(m)), None)
        if member is None:
            return None
        try:
            offer: bytes = await member.actor.offer.remote()
        except self._ray.exceptions.RayActorError:  # it has died: the next call asks another one
            return None
        except self._ray.exceptions.RayTaskError as error:
            raise ConfigError(f"A worker cannot be measured: {_cause(error)}") from error
        return offer

    def close(self) -> bool:
        for member in self._members.values():
            if member.look is not None:
                member.look.cancel()
            self._ray.kill(member.actor)
        self._members.clear()
        self._ray.shutdown()
        return True

    def lost(self, member: Member) -> None:
        """Takes no session to this worker until it has answered again."""
        if member.remote is not None:
            _log.warning("worker lost", extra={"worker": member.name})
            self._closed.append(member.remote)
            member.remote = None

    def _add(self) -> None:
        self._started += 1
        name = f"worker-{self._started}"
        settings = self._settings
        resources = dict(self._settings.pool.resources)
        actor = self._ray.remote(self._worker_type).options(
            name=name,
            num_cpus=resources.pop("CPU", 1.0),
            num_gpus=resources.pop("GPU", 0.0),
            resources=resources or None,
            max_restarts=-1,
            runtime_env={"env_vars": {"GRPC_SSL_CIPHER_SUITES": CIPHER_SUITES, **ENVIRONMENT}},  # Ray comes before us
        )
        host = _loopback if settings.pool.address is None else _address_in_cluster
        self._members[name] = Member(name, actor.remote(settings.model_dump_json(), host), what_runs(settings))

    async def _wait(self, member: Member) -> None:
        self._note(member, await member.actor.status.remote())

    async def _look(self, member: Member) -> None:
        try:
            async with asyncio.timeout(ANSWER_S if member.remote is not None else None):
                self._note(member, await member.actor.status.remote())
        except (TimeoutError, self._ray.exceptions.RayError) as error:
            self.lost(member)
            for_good = isinstance(error, self._ray.exceptions.ActorDiedError)  # its machine went, or it cannot start
            if for_good and self._members.pop(member.name, None) is not None:  # nor did we end it
                _log.error("worker ended: %s", _cause(error), extra={"worker": member.name})
                self._take_back(member)

    def _take_back(self, ended: Member) -> None:
        """Goes back to the settings before a rollout whose worker has ended before one served."""
        if self._before is not None and not self._is_outdated(ended):
            _log.error("rollout taken back: its worker does not start")
            self._settings, self._before = self._before, None
            self._scaling.use(self._settings.pool.workers.min, self._settings.pool.workers.max)

    def _is_outdated(self, member: Member) -> bool:
        return member.runs != what_runs(self._settings)

    def _note(self, member: Member, status: WorkerStatus) -> None:
        member.queue_s, member.process_id = status.queue_s, status.process_id
        if member.remote is None or member.remote.address != status.address:
            self.lost(member)
            member.remote = RemoteWorker(status.address, self._identity)
            who = {"worker": member.name, "process_id": status.process_id, "address": status.address}
            _log.info("worker serves", extra=who)
            if not self._is_outdated(member):
                self._before = None

    def _scale(self) -> None:
        loads = [
            m.load(m.remote, outdated=self._is_outdated(m)) for m in self._members.values() if m.remote is not None
        ]
        decision = self._scaling.decide(loads, len(self._members) - len(loads), time.monotonic())
        for _ in range(decision.num_to_start):
            self._add()
        for name in decision.drain:
            self._members[name].draining_since_s = time.monotonic()
            _log.info("worker drains", extra={"worker": name})
        for name in decision.end:
            member = self._members.pop(name)
            self.lost(member)
            self._ray.kill(member.actor)


class _MonitoredWorker:
    """Is a member's worker for one session: one that does not answer gets no other before it is heard again."""

    def __init__(self, pool: RayPool, member: Member) -> None:
        assert member.remote is not None
        self._pool = pool
        self._member = member
        self._remote = member.remote

    async def serve(self, device: str, stream: EnvelopeStream) -> None:
        try:
            await self._remote.serve(device, stream)
        except PeerUnavailable:
            if self._member.remote is self._remote:
                self._pool.lost(self._member)
            raise


def _loopback() -> str:
    return "127.0.0.1"


def _address_in_cluster() -> str:
    """Returns the address of the machine that calls, as Ray's nodes know it."""
    import ray

    address: str = ray.util.get_node_ip_address()
    return address


def _cause(error: BaseException) -> str:
    """Returns the last line of the worker's traceback, which Ray gives as one text, without the error's type."""
    line = (str(getattr(error, "cause", None) or error).strip() or type(error).__name__).splitlines()[-1]
    kind, _, sentence = line.partition(": ")
    return sentence if sentence and " " not in kind else line
