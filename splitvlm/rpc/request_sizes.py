"""Computes what a request's messages weigh on an open session, in bytes of the sealed, serialised envelopes (DESIGN.md, law 2).

They are those of a request under the plan and length of the request before. The session's set-up is counted apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from splitvlm.crypto.sealing import OVERHEAD_BYTES
from splitvlm.domain import Conversation
from splitvlm.rpc.conversation import conversation_to_wire
from splitvlm.rpc.limits import CHUNK_BYTES
from splitvlm.wire.v1 import data_pb2 as pb


def upload_bytes(segments: Sequence[int], conversation: Conversation | None = None, prefix: bytes = b"") -> int:
    """Returns the bytes of the frames that carry a payload of such segments, by their sizes in bytes.

    The first frame carries the request's other fields, too: `conversation` at the cut `image`, `prefix` where the cloud node
    may cache the prompt's.
    """
    first_bytes, *later = segments or (0,)
    begin = pb.Begin(
        payload_bytes=_declared(first_bytes),
        first=bytes(min(first_bytes, CHUNK_BYTES)),
        conversation=conversation_to_wire(conversation) if conversation is not None else None,
        prefix=prefix,
        segments=len(segments) if later else 0,
    )
    total = _sealed_bytes(pb.DeviceFrame(begin=begin)) + _chunks_bytes(first_bytes)
    for num_bytes in later:
        segment = pb.Segment(payload_bytes=_declared(num_bytes), first=bytes(min(num_bytes, CHUNK_BYTES)))
        total += _sealed_bytes(pb.DeviceFrame(segment=segment)) + _chunks_bytes(num_bytes)
    return total


def _declared(num_bytes: int) -> int:
    """Returns a segment's size where it must be said: a segment in one frame says it by its length."""
    return num_bytes if num_bytes > CHUNK_BYTES else 0


def _chunks_bytes(num_bytes: int) -> int:
    """Returns the bytes of the frames that carry a segment's chunks after its first frame."""
    whole_chunks, rest_bytes = divmod(max(0, num_bytes - CHUNK_BYTES), CHUNK_BYTES)
    total = whole_chunks * _sealed_bytes(pb.DeviceFrame(chunk=bytes(CHUNK_BYTES)))
    return total + (_sealed_bytes(pb.DeviceFrame(chunk=bytes(rest_bytes))) if rest_bytes else 0)


def step_bytes(coded_bytes: int) -> int:
    """Returns the bytes of the frame that carries the coded boundary of one token (cuts `lm:k`)."""
    return _sealed_bytes(pb.DeviceFrame(step=bytes(coded_bytes)))


def _sealed_bytes(frame: pb.DeviceFrame) -> int:
    return pb.Envelope(sealed=bytes(frame.ByteSize() + OVERHEAD_BYTES)).ByteSize()
