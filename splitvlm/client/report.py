"""Tells the program that asked what happened to its request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from splitvlm.wire.v1 import local_pb2 as pb

STAGES = ("device", "encode", "upload", "decode", "queue", "prefill", "tokens")


@dataclass(frozen=True, slots=True)
class Report:
    """Says how a request was answered. Times are seconds; an emulated slow-down of the device counts in them."""

    plan: str
    answered_by: str  # `device` or `cloud`
    finish_reason: (
        str  # `stop`: the model or a stop string ended the answer; `length`: as many tokens as were asked for
    )
    bytes_sent: int  # sealed, device to cloud
    bytes_received: int
    prompt_tokens: int
    image_tokens: int  # of the prompt
    cached_tokens: int  # of the prompt: they were in the prefix cache
    token_ids: tuple[int, ...]
    first_token_s: float
    total_s: float
    stages_s: Mapping[str, float]  # by the names in STAGES
    seed: int | None = None  # of the draws, given or drawn; None: greedy
    request_id: str = ""
    emulated_slowdown: float = 1.0
    warning: str = ""  # why the answer may mean nothing; empty where nothing is known against it


def report_of(message: pb.RequestReport) -> Report:
    """Returns what a message says."""
    return Report(
        plan=message.plan,
        answered_by=message.answered_by,
        finish_reason=message.finish_reason,
        bytes_sent=message.bytes_sent,
        bytes_received=message.bytes_received,
        prompt_tokens=message.prompt_tokens,
        image_tokens=message.image_tokens,
        cached_tokens=message.cached_tokens,
        token_ids=tuple(message.token_ids),
        first_token_s=message.first_token_s,
        total_s=message.total_s,
        stages_s={stage: getattr(message, f"{stage}_s") for stage in STAGES},
        seed=message.sampling.seed if message.sampling.HasField("seed") else None,
        request_id=message.request_id,
        emulated_slowdown=message.emulated_slowdown,
        warning=message.warning,
    )
