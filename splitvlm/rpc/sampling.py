"""Sampling as messages carry it, and back. Greedy is no message at all."""

from __future__ import annotations

from dataclasses import replace

from splitvlm.domain import GREEDY, AnswerConstraint, Choices, JsonSchema, Sampling
from splitvlm.errors import UsageError
from splitvlm.wire.v1 import sampling_pb2 as pb
from splitvlm.wire.v1.data_pb2 import Begin
from splitvlm.wire.v1.local_pb2 import Question


def sampling_to_wire(sampling: Sampling, *, with_seed: bool = True) -> pb.Sampling | None:
    """Returns the message of a sampling; None for greedy. Without its seed, whoever gets it draws one."""
    message = pb.Sampling()
    if sampling.draws or sampling.penalises:
        message.temperature = sampling.temperature
        message.top_p = sampling.top_p
        message.top_k = sampling.top_k
        message.repetition_penalty = sampling.repetition_penalty
    if with_seed and sampling.draws:
        message.seed = sampling.seed
    if sampling.constraint is not None:
        message.constraint.CopyFrom(_constraint_to_wire(sampling.constraint))
    if sampling.top_logprobs is not None:
        message.top_logprobs = sampling.top_logprobs
    return message if message.ByteSize() else None


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
        constraint=_constraint_of(wanted.constraint) if wanted.HasField("constraint") else None,
        top_logprobs=wanted.top_logprobs if wanted.HasField("top_logprobs") else None,
    )
    return sampling if wanted.HasField("seed") or not sampling.draws else replace(sampling, seed=drawn_seed)


def _constraint_to_wire(constraint: AnswerConstraint) -> pb.Constraint:
    if isinstance(constraint, JsonSchema):
        return pb.Constraint(json_schema=constraint.text)
    return pb.Constraint(choices=pb.Choices(texts=constraint.texts))


def _constraint_of(message: pb.Constraint) -> AnswerConstraint:
    match message.WhichOneof("body"):
        case "json_schema":
            return JsonSchema(message.json_schema)
        case "choices":
            return Choices(tuple(message.choices.texts))
        case _:
            raise UsageError("A constraint says neither a schema nor choices.", advice="Update the older node.")
