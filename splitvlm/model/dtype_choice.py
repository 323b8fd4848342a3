"""The dtype in which a model computes where its configuration says `auto`: the faster one, measured on this machine.

bfloat16 takes half of float32's time on processors with AVX512-BF16 or AMX, and many times as long on others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

from splitvlm.model.threads import in_passing_thread, use_threads
from splitvlm.settings import ModelChoice

if TYPE_CHECKING:
    import torch

Dtype = Literal["float32", "bfloat16"]


class NodeSettings(Protocol):
    """Settings of a node that runs a model."""

    @property
    def model(self) -> ModelChoice:
        """Holds the model, and how it computes."""

    def model_copy(self: S, *, update: Mapping[str, Any]) -> S:
        """Returns a copy with other values, as pydantic's models do."""


S = TypeVar("S", bound=NodeSettings)

LEAST_GAIN = 1.15  # bfloat16 rounds more coarsely: a smaller gain is not worth it
TOKENS, WIDTH, LAYERS, ROUNDS = 16, 1_024, 4, 15  # about 10 ms, and more memory than a cache holds

_log = logging.getLogger("splitvlm.model")


class DtypeTimes(NamedTuple):
    """Holds how long some linear layers took in each dtype, in seconds."""

    float32_s: float
    bfloat16_s: float


def with_dtype(settings: S) -> S:
    """Returns a node's settings with the dtype that `auto` stands for here in `model.dtype`; others as they are."""
    return settings.model_copy(update={"model": chosen_dtype(settings.model)})


def chosen_dtype(model: ModelChoice) -> ModelChoice:
    """Returns the choice of model with the dtype that `auto` stands for here; others as they are."""
    if model.dtype != "auto":
        return model
    times = in_passing_thread(lambda: measured_times(model.device))
    dtype = faster(times)
    _log.info("%s: bfloat16 takes %.2f of float32's time here", dtype, times.bfloat16_s / times.float32_s)
    return model.model_copy(update={"dtype": dtype})


def faster(times: DtypeTimes) -> Dtype:
    """Returns bfloat16 where it saves enough time, else float32."""
    return "bfloat16" if times.bfloat16_s * LEAST_GAIN <= times.float32_s else "float32"


@lru_cache(maxsize=4)
def measured_times(device: str) -> DtypeTimes:
    """Times linear layers as a model runs them, in both dtypes in turns: the least times, which other work cannot lengthen.

    One thread computes; several would wait for one another where other work holds a core.
    """
    import torch

    threads = torch.get_num_threads()
    use_threads(1)
    layers = {dtype: _layers(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    took_s: dict[torch.dtype, list[float]] = {dtype: [] for dtype in layers}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for dtype, stack in layers.items():
                states = torch.ones(TOKENS, WIDTH, dtype=dtype, device=device)
                began_s = time.perf_counter()
                float(stack(states).sum())  # waits for a GPU, too
                took_s[dtype].append(time.perf_counter() - began_s)
    use_threads(threads)
    return DtypeTimes(min(took_s[torch.float32]), min(took_s[torch.bfloat16]))


def _layers(dtype: torch.dtype, device: str) -> torch.nn.Module:
    import torch

    from splitvlm.model.packed_linear import pack_linears

    stack = torch.nn.Sequential(
        *(torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=dtype, device=device) for _ in range(LAYERS))
    )
    pack_linears(stack.requires_grad_(False), tied=True)
    return stack
