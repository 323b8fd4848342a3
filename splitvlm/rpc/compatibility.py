"""Compares what device and cloud must share before anything is computed: protocol, weights, processor, codec, dtype.

Variants of the device's part that both have by name must be the same by hash; those that one of them lacks are not served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from splitvlm.domain import FULL
from splitvlm.errors import HandshakeRefused
from splitvlm.rpc.wire_checks import MAX_VARIANTS, check_count
from splitvlm.wire.v1 import data_pb2

PROTOCOL_VERSION = 9

_NAMES = {
    "protocol_version": "protocol version",
    "weights_hash": "weights",
    "processor_hash": "processor",
    "codec_hash": "codec",
    "dtype": "dtype",
}


def compatibility(
    *,
    model: str,
    weights_hash: str,
    processor_hash: str,
    codec_hash: str,
    dtype: str,
    variants: Mapping[str, str] | None = None,
) -> data_pb2.Compatibility:
    """Returns what both sides of a session must have in common, with this code's protocol version.

    `variants` are hashes by name.
    """
    return data_pb2.Compatibility(
        protocol_version=PROTOCOL_VERSION,
        model=model,
        weights_hash=weights_hash,
        processor_hash=processor_hash,
        codec_hash=codec_hash,
        dtype=dtype,
        variants=[data_pb2.VariantHash(name=name, hash=digest) for name, digest in (variants or {}).items()],
    )


def check_compatibility(device: data_pb2.Compatibility, cloud: data_pb2.Compatibility) -> None:
    """Raises HandshakeRefused naming all that differs, with the start of both hashes; UsageError for too many variants."""
    check_count("variants", device.variants, MAX_VARIANTS)
    different = [
        f"{name} (device {_short(getattr(device, key))}, cloud {_short(getattr(cloud, key))})"
        for key, name in _NAMES.items()
        if getattr(device, key) != getattr(cloud, key)
    ]
    known = _hashes(cloud)
    different += [
        f"variant {name} (device {_short(digest)}, cloud {_short(known[name])})"
        for name, digest in _hashes(device).items()
        if known.get(name, digest) != digest
    ]
    if different:
        raise HandshakeRefused(
            f"Device and cloud differ in {', '.join(different)}.",
            advice="Give both nodes the same splitvlm version, the same model folder (model.name, model.dtype) and the same "
            "folders of variants.",
        )


def agreed_variants(device: data_pb2.Compatibility, cloud: data_pb2.Compatibility) -> frozenset[str]:
    """Returns the variants that both sides have, by name; their hashes were compared."""
    return frozenset({FULL} | _hashes(device).keys() & _hashes(cloud).keys())


def _hashes(side: data_pb2.Compatibility) -> dict[str, str]:
    return {variant.name: variant.hash for variant in side.variants}


def session_context(device: data_pb2.Compatibility) -> bytes:
    """Returns 32 bytes that stand for what the device said, which the cloud agreed to, in keys and associated data.

    Sessions of other agreements cannot be mixed in.
    """
    shared = [str(getattr(device, key)) for key in _NAMES]
    shared += [f"{name} {digest}" for name, digest in sorted(_hashes(device).items())]
    return hashlib.sha256("\n".join(shared).encode()).digest()


def _short(value: object) -> str:
    return str(value)[:12] or "none"
