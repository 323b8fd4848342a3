"""Times of the stages of a part, for profiling: a callback gets (stage, seconds). Off unless set.

Stages: `prepare` (picture and prompt to tensors), `patches`, `vision:1`.., `connector`, `embed`, `lm:1`.., `head`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

OnStage = Callable[[str, float], None]


class StageClock:
    """Measures the stages of one part. `listener` may be set and unset between requests."""

    def __init__(self, device: torch.device) -> None:
        self.listener: OnStage | None = None
        self._cuda = device if device.type == "cuda" else None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures what runs inside and tells the listener its name and seconds, if there is a listener."""
        if self.listener is None:
            yield
            return
        start = self._now()
        yield
        if self.listener is not None:
            self.listener(name, self._now() - start)

    def watch(self, modules: nn.ModuleList, kind: str) -> None:
        """Times each layer as `kind`:1, `kind`:2, ... The hooks are shared by all twins of the layers."""
        for index, module in enumerate(modules, start=1):
            self.watch_one(module, f"{kind}:{index}")

    def watch_one(self, module: nn.Module, name: str) -> None:
        """Times one module as `name`."""
        started: list[float] = []

        def before(module: nn.Module, args: Any) -> None:
            if self.listener is not None:
                started.append(self._now())

        def after(module: nn.Module, args: Any, output: Any) -> None:
            if started and self.listener is not None:
                self.listener(name, self._now() - started.pop())
            started.clear()

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    def _now(self) -> float:
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
        return time.perf_counter()
