"""A worker of a pool of processes: the pool's handle of it, the way to it once it listens, and what was heard of it last."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from cloud_node.pools.relay import RemoteWorker
from cloud_node.pools.scaling import WorkerLoad
from cloud_node.settings import CloudSettings


@dataclass(slots=True)
class Member:
    """Holds one worker of the pool: Ray's handle, and the way to it once it listens."""

    name: str
    actor: Any  # the handle, on which the pool calls its methods
    runs: dict[str, Any]  # `what_runs` of its settings
    remote: RemoteWorker | None = None  # None while it starts, or starts again
    process_id: int = 0
    queue_s: float = 0.0
    draining_since_s: float | None = None
    look: asyncio.Task[None] | None = None  # that runs, or ran last

    @property
    def serves(self) -> bool:
        """Tells whether it takes new sessions."""
        return self.remote is not None and self.draining_since_s is None

    def load(self, remote: RemoteWorker, *, outdated: bool) -> WorkerLoad:
        """Returns what is decided by whether it stays."""
        return WorkerLoad(self.name, remote.num_sessions, self.queue_s, self.draining_since_s, outdated)


def burden(member: Member) -> tuple[float, int, str]:
    """Sorts workers by the wait that a session expects, then by their sessions."""
    assert member.remote is not None
    return member.queue_s, member.remote.num_sessions, member.name


def what_runs(settings: CloudSettings) -> dict[str, Any]:
    """Returns the settings that a worker's process is started with, and cannot change."""
    return settings.model_dump(include={"model": True, "cuts": True, "engine": True, "pool": {"resources"}})
