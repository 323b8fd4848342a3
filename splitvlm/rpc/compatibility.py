"""Compares what device and cloud must share before anything is computed: protocol, weights, processor, codec, dtype."""

from __future__ import annotations

import hashlib

from splitvlm.errors import HandshakeRefused
from splitvlm.wire.v1 import data_pb2

PROTOCOL_VERSION = 7

_NAMES = {
    "protocol_version": "protocol version",
    "weights_hash": "weights",
    "processor_hash": "processor",
    "codec_hash": "codec",
    "dtype": "dtype",
}


def compatibility(
    *, model: str, weights_hash: str, processor_hash: str, codec_hash: str, dtype: str
) -> data_pb2.Compatibility:
    """Returns what both sides of a session must have in common, with this code's protocol version."""
    return data_pb2.Compatibility(
        protocol_version=PROTOCOL_VERSION,
        model=model,
        weights_hash=weights_hash,
        processor_hash=processor_hash,
        codec_hash=codec_hash,
        dtype=dtype,
    )


def check_compatibility(device: data_pb2.Compatibility, cloud: data_pb2.Compatibility) -> None:
    """Raises HandshakeRefused naming everything that differs, with the start of both hashes."""
    different = [
        f"{name} (device {_short(getattr(device, key))}, cloud {_short(getattr(cloud, key))})"
        for key, name in _NAMES.items()
        if getattr(device, key) != getattr(cloud, key)
    ]
    if different:
        raise HandshakeRefused(
            f"Device and cloud differ in {', '.join(different)}.",
            advice="Give both nodes the same splitvlm version and the same model folder (model.name, model.dtype).",
        )


def session_context(agreed: data_pb2.Compatibility) -> bytes:
    """Returns 32 bytes that stand for the agreement in keys and associated data: sessions of other agreements cannot be mixed
    in.
    """
    shared = [str(getattr(agreed, key)) for key in _NAMES]
    return hashlib.sha256("\n".join(shared).encode()).digest()


def _short(value: object) -> str:
    return str(value)[:12] or "none"
