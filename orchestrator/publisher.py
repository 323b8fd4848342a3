"""Sends tables to plan streams when what they depend on has changed, and takes note of cloud nodes that fell silent.

A heartbeat that changes nothing costs nothing here. One that changes a cloud node's queue asks for a round over the open
streams. However many ask, one round follows, after the pause of the one before: this bounds the share of time that they take.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping

from orchestrator.plan_streams import Basis, PlanStream, PlanStreams
from orchestrator.registry import Registry
from orchestrator.tables import DeviceTable, Tables
from splitvlm.domain import Plan
from splitvlm.planning.table import PlanTable
from splitvlm.rpc.plans import table_to_wire

_log = logging.getLogger("splitvlm.orchestrator")
EXPIRE_PERIOD_S = 0.1
FORGET_PERIOD_S = 60.0
ROUND_PERIOD_S = 0.05  # between two rounds at least
PAUSE_PER_ROUND_S = (
    4.0  # for each second of a round, before one that only queues ask for: rounds take a fifth of a core
)
SLICE_S = 0.02  # after which a round lets other calls run


class Publisher:
    """Writes to all plan streams, and is the only one that does."""

    def __init__(self, registry: Registry, streams: PlanStreams, accuracy: Mapping[Plan, float]) -> None:
        self._registry = registry
        self._streams = streams
        self._tables = Tables(accuracy)
        self._settings_generation = 0
        self._version = 0
        self._due = asyncio.Event()
        self._urgent = asyncio.Event()

    def use(self, accuracy: Mapping[Plan, float]) -> None:
        """Uses other drops, from the next tables on, which are sent at once."""
        self._tables = Tables(accuracy)
        self._settings_generation += 1
        self.changed()

    def changed(self) -> None:
        """Has a round follow at once: a node came, left or died, or a stream was opened."""
        self._due.set()
        self._urgent.set()

    def load_changed(self) -> None:
        """Has a round follow after the pause: a cloud node's queue moved."""
        self._due.set()

    async def run(self) -> None:
        """Rounds for ever. Returns only by cancellation."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._expire())
            tasks.create_task(self._publish())

    async def _expire(self) -> None:
        forgets_at_s = 0.0
        while True:
            now_s = time.monotonic()
            if self._registry.expire(now_s):
                self.changed()
            if now_s >= forgets_at_s:
                self._registry.forget(now_s)
                forgets_at_s = now_s + FORGET_PERIOD_S
            await asyncio.sleep(EXPIRE_PERIOD_S)

    async def _publish(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            self._urgent.clear()
            started_s = time.monotonic()
            await self._round()
            await asyncio.sleep(ROUND_PERIOD_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_PER_ROUND_S * (time.monotonic() - started_s)):
                    await self._urgent.wait()

    async def _round(self) -> None:
        """Looks at each stream once; builds a table only where its basis is another one."""
        slice_ends_s = time.monotonic() + SLICE_S
        for stream in self._streams.all():
            self._update(stream)
            if time.monotonic() > slice_ends_s:
                await asyncio.sleep(0)
                slice_ends_s = time.monotonic() + SLICE_S

    def _update(self, stream: PlanStream) -> None:
        edge = self._registry.edge(stream.node)
        if edge is None or edge.origin.instance != stream.instance:
            return
        basis: Basis = edge, self._registry.generation(edge.weights_hash), self._settings_generation
        if stream.basis is not None and stream.basis[0] is edge and stream.basis[1:] == basis[1:]:
            return
        stream.basis = basis
        table = self._tables.table_for(edge, self._registry.clouds_for(edge))
        if not table.same_as(stream.sent):
            stream.sent = table
            self._send(stream, table)

    def _send(self, stream: PlanStream, table: DeviceTable) -> None:
        if table.problem:
            _log.warning("no plan for %s: %s", stream.node, table.problem)
        self._version += 1
        cloud = table.cloud
        stream.put(
            table_to_wire(
                PlanTable(self._version, table.lines),
                cloud_node=cloud.name if cloud else "",
                cloud_address=cloud.address if cloud else "",
                standby=table.standby,
                problem=table.problem,
                notice=table.notice,
            )
        )
