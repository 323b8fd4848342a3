"""The fresh keys of a handshake and what both sides get from them: X25519, and ML-KEM-768 besides where both have it.

    device's public := X25519 key 32 [· ML-KEM-768 encapsulation key 1184]
    cloud's public  := X25519 key 32 [· ML-KEM-768 ciphertext 1088]
    secret          := [ML-KEM secret 32 ·] X25519 secret 32

Hybrid as in draft-ietf-tls-ecdhe-mlkem (X25519MLKEM768): who records sessions today and has a quantum computer tomorrow must
break both. Both publics stand in the signed transcript (handshake.py): nobody on the way can take the second half off.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from splitvlm.errors import ProtocolError

X25519_BYTES: Final = 32
ENCAPSULATION_BYTES: Final = 1184
CIPHERTEXT_BYTES: Final = 1088


@cache
def has_mlkem() -> bool:
    """Tells whether the library under `cryptography` knows ML-KEM."""
    try:
        MLKEM768PrivateKey.generate()
    except UnsupportedAlgorithm:
        return False
    return True


class DeviceKeys:
    """Holds the device's ephemeral keys for one handshake."""

    def __init__(self, *, hybrid: bool | None = None) -> None:
        """Makes fresh keys. `hybrid` adds ML-KEM; None adds it where the library has it."""
        self._curve = X25519PrivateKey.generate()
        self._lattice = MLKEM768PrivateKey.generate() if (has_mlkem() if hybrid is None else hybrid) else None
        self.public = self._curve.public_key().public_bytes_raw()
        if self._lattice is not None:
            self.public += self._lattice.public_key().public_bytes_raw()

    def shared(self, cloud_public: bytes) -> bytes:
        """Returns the secret. Raises ProtocolError."""
        secret = _exchanged(self._curve, cloud_public[:X25519_BYTES])
        ciphertext = cloud_public[X25519_BYTES:]
        if not ciphertext:  # a cloud node without ML-KEM, which has signed that it has none
            return secret
        if self._lattice is None or len(ciphertext) != CIPHERTEXT_BYTES:
            raise _invalid_key()
        return self._lattice.decapsulate(ciphertext) + secret


def answer(device_public: bytes, *, hybrid: bool | None = None) -> tuple[bytes, bytes]:
    """Answers a device: returns the cloud's public bytes and the secret, fresh for each call. Raises ProtocolError."""
    curve = X25519PrivateKey.generate()
    secret = _exchanged(curve, device_public[:X25519_BYTES])
    public, encapsulation = curve.public_key().public_bytes_raw(), device_public[X25519_BYTES:]
    if not encapsulation:
        return public, secret
    if len(encapsulation) != ENCAPSULATION_BYTES:
        raise _invalid_key()
    if not (has_mlkem() if hybrid is None else hybrid):
        return public, secret
    try:
        inner, ciphertext = MLKEM768PublicKey.from_public_bytes(encapsulation).encapsulate()
    except ValueError as error:  # coefficients beyond the modulus (FIPS 203, 7.2)
        raise _invalid_key() from error
    return public + ciphertext, inner + secret


def _exchanged(own_key: X25519PrivateKey, peer_public: bytes) -> bytes:
    try:
        return own_key.exchange(X25519PublicKey.from_public_bytes(peer_public))
    except ValueError as error:  # not 32 bytes, or a point of small order (RFC 7748 6.1)
        raise _invalid_key() from error


def _invalid_key() -> ProtocolError:
    return ProtocolError("The peer's ephemeral key is invalid.")
