"""Computes what a request's messages weigh on an open session, in bytes of the sealed, serialised envelopes (DESIGN.md, law 2).

They are those of a request under the plan and length of the request before, whose payload goes in one segment. The session's
set-up is counted apart.
"""

from __future__ import annotations

from splitvlm.crypto.sealing import OVERHEAD_BYTES
from splitvlm.rpc.limits import CHUNK_BYTES
from splitvlm.wire.v1 import data_pb2 as pb


def upload_bytes(payload_bytes: int, question: str = "", picture: bytes = b"") -> int:
    """Returns the bytes of the frames that carry a payload: its first bytes with the request's other fields, then chunks.

    `question` is sent at the cut `image`, `picture` where the cloud node may cache its prefix.
    """
    first = pb.Begin(
        payload_bytes=payload_bytes if payload_bytes > CHUNK_BYTES else 0,
        first=bytes(min(payload_bytes, CHUNK_BYTES)),
        question=question,
        picture=picture,
    )
    whole_chunks, rest_bytes = divmod(max(0, payload_bytes - CHUNK_BYTES), CHUNK_BYTES)
    chunks_bytes = whole_chunks * _sealed_bytes(pb.DeviceFrame(chunk=bytes(CHUNK_BYTES)))
    if rest_bytes:
        chunks_bytes += _sealed_bytes(pb.DeviceFrame(chunk=bytes(rest_bytes)))
    return _sealed_bytes(pb.DeviceFrame(begin=first)) + chunks_bytes


def step_bytes(coded_bytes: int) -> int:
    """Returns the bytes of the frame that carries the coded boundary of one token (cuts `lm:k`)."""
    return _sealed_bytes(pb.DeviceFrame(step=bytes(coded_bytes)))


def _sealed_bytes(frame: pb.DeviceFrame) -> int:
    return pb.Envelope(sealed=bytes(frame.ByteSize() + OVERHEAD_BYTES)).ByteSize()
