"""Chooses the engine that a worker runs, by its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cloud_node.engine.lane import Lane

if TYPE_CHECKING:
    from cloud_node.engine.protocol import Engine
    from cloud_node.engine.recent import RecentMean
    from cloud_node.settings import EngineKind
    from splitvlm.model.parts import CloudPart


def make_engine(
    kind: EngineKind, part: CloudPart, waits: RecentMean, kv_budget_bytes: int, leave: Callable[[int], None]
) -> Engine:
    """Returns an engine for the part; `waits` is told how long each of its jobs waited, in seconds.

    `leave` is told how many bytes of the budget cached prefixes may take, whenever that changes.

    Raises UsageError for a model that the engine does not run, and ConfigError where the engine is not installed.
    """
    if kind == "vllm":
        from cloud_node.engine.vllm import VllmEngine

        return VllmEngine(part, kv_budget_bytes, Lane("torch", waits))
    from cloud_node.engine.torch_engine import TorchEngine

    return TorchEngine(part, kv_budget_bytes, lambda between: Lane("torch", waits, between=between), leave)
