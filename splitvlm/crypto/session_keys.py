"""The keys of a session, derived from the handshake by HKDF-SHA256 (RFC 5869).

    salt = SHA-256 of the whole transcript (handshake.py)     input = the shared secret (exchange.py), 32 or 64 bytes
    info = "splitvlm session keys 1"
    output, 104 bytes = device key 32 · device iv 12 · cloud key 32 · cloud iv 12 · session id 16

A direction's next key and iv, where one has been used enough = HKDF-Expand(key, "splitvlm next key 1"), 44 bytes.
The device's key seals what the device sends, the cloud's what the cloud sends. The session id is no secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

_INFO: Final = b"splitvlm session keys 1"
_NEXT: Final = b"splitvlm next key 1"
_KEY_BYTES: Final = 32
_IV_BYTES: Final = 12
_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class DirectionKey:
    """Holds an AES-256-GCM key and the 96-bit value that each frame's counter is XORed into."""

    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """Holds both directions' keys. To forget a session's secrets, drop it and what was made of it."""

    of_device: DirectionKey
    of_cloud: DirectionKey
    session_id: bytes
    context_hash: bytes  # SHA-256 of what both sides agreed on: protocol, model, processor, codec


def derive(shared_secret: bytes, transcript_hash: bytes, context_hash: bytes) -> SessionKeys:
    """Derives the keys of both directions and the session's id by HKDF-SHA256 (RFC 5869), salted with the transcript."""
    side = _KEY_BYTES + _IV_BYTES
    length = 2 * side + _ID_BYTES
    okm = HKDF(algorithm=hashes.SHA256(), length=length, salt=transcript_hash, info=_INFO).derive(shared_secret)
    return SessionKeys(_direction(okm[:side]), _direction(okm[side : 2 * side]), okm[2 * side :], context_hash)


def following(key: DirectionKey) -> DirectionKey:
    """Returns the key after this one. There is no way back."""
    side = _KEY_BYTES + _IV_BYTES
    return _direction(HKDFExpand(algorithm=hashes.SHA256(), length=side, info=_NEXT).derive(key.key))


def _direction(okm: bytes) -> DirectionKey:
    return DirectionKey(okm[:_KEY_BYTES], okm[_KEY_BYTES:])
