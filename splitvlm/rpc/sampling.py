"""Sampling as messages carry it, and back. Greedy is no message at all."""

from __future__ import annotations

from dataclasses import replace

from splitvlm.domain import GREEDY, Sampling
from splitvlm.wire.v1.data_pb2 import Begin
from splitvlm.wire.v1.local_pb2 import Question
from splitvlm.wire.v1.sampling_pb2 import Sampling as SamplingMessage


def sampling_to_wire(sampling: Sampling, *, with_seed: bool = True) -> SamplingMessage | None:
    """Returns the message of a sampling; None for greedy. Without its seed, whoever gets it draws one."""
    if sampling.is_greedy:
        return None
    return SamplingMessage(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed if with_seed and sampling.draws else None,
    )


def sampling_of(message: Begin | Question, drawn_seed: int = 0) -> Sampling:
    """Returns what a message asks for, with `drawn_seed` where it draws and names no seed. Raises UsageError."""
    if not message.HasField("sampling"):
        return GREEDY
    wanted = message.sampling
    sampling = Sampling(
        temperature=wanted.temperature,
        top_p=wanted.top_p if wanted.HasField("top_p") else GREEDY.top_p,
        top_k=wanted.top_k,
        repetition_penalty=wanted.repetition_penalty
        if wanted.HasField("repetition_penalty")
        else GREEDY.repetition_penalty,
        seed=wanted.seed,
    )
    return sampling if wanted.HasField("seed") or not sampling.draws else replace(sampling, seed=drawn_seed)
