"""Frames sealed and opened in order, one direction of one session.

    frame = AES-256-GCM(key, nonce, associated data, plaintext)          16 bytes longer than the plaintext (the tag)
    nonce = the direction's iv XOR the frame's counter, 96 bits          (as TLS 1.3, RFC 8446 5.3)
    associated data = version u8 · context hash 32 · session id 16 · direction u8 · counter u64 (big-endian)

The counter starts at 0 and is not sent: both sides count. So a frame that is repeated, dropped, reordered, reflected or
from another session does not open, and neither does a changed or cut one. After the first that fails nothing opens any
more: there is no way back into step.

Neither class is for use by several threads at once.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from splitvlm.crypto.session_keys import DirectionKey, SessionKeys
from splitvlm.errors import ProtocolError

OVERHEAD_BYTES: Final = 16
# AES-GCM keeps its margin up to about 2**38 bytes a key (RFC 8446 5.5). We stay far below, whatever the frames.
MAX_FRAMES: Final = 1 << 24
MAX_BYTES: Final = 1 << 35

_VERSION: Final = b"\x01"
_DEVICE: Final = b"\x00"
_CLOUD: Final = b"\x01"


class _Direction:
    """One direction's cipher and count."""

    def __init__(self, keys: SessionKeys, sender: bytes) -> None:
        chosen: DirectionKey = keys.of_device if sender == _DEVICE else keys.of_cloud
        self.cipher = AESGCM(chosen.key)
        self._iv = int.from_bytes(chosen.iv, "big")
        self._prefix = _VERSION + keys.context_hash + keys.session_id + sender
        self._frames = 0
        self._bytes = 0

    def next(self, sealed_bytes: int) -> tuple[bytes, bytes]:
        """Nonce and associated data of the next frame. Raises ProtocolError where the key has been used enough."""
        self._bytes += sealed_bytes
        if self._frames >= MAX_FRAMES or self._bytes > MAX_BYTES:
            raise ProtocolError("This session's keys have been used enough.", advice="Open a new session.")
        counter, self._frames = self._frames, self._frames + 1
        return (self._iv ^ counter).to_bytes(12, "big"), self._prefix + counter.to_bytes(8, "big")


class Sealer:
    """Seals what one side sends."""

    def __init__(self, keys: SessionKeys, sender: bytes) -> None:
        self._direction = _Direction(keys, sender)

    @classmethod
    def of_device(cls, keys: SessionKeys) -> Sealer:
        """The device's, for what it sends."""
        return cls(keys, _DEVICE)

    @classmethod
    def of_cloud(cls, keys: SessionKeys) -> Sealer:
        """The cloud worker's, for what it sends."""
        return cls(keys, _CLOUD)

    def seal(self, plaintext: bytes) -> bytes:
        """The next frame, OVERHEAD_BYTES longer. Raises ProtocolError where a new session is needed."""
        nonce, associated = self._direction.next(len(plaintext) + OVERHEAD_BYTES)
        return self._direction.cipher.encrypt(nonce, plaintext, associated)


class Opener:
    """Opens what one side receives, in the order in which it was sealed."""

    def __init__(self, keys: SessionKeys, sender: bytes) -> None:
        self._direction: _Direction | None = _Direction(keys, sender)

    @classmethod
    def of_device(cls, keys: SessionKeys) -> Opener:
        """The device's, for what the cloud sends."""
        return cls(keys, _CLOUD)

    @classmethod
    def of_cloud(cls, keys: SessionKeys) -> Opener:
        """The cloud worker's, for what the device sends."""
        return cls(keys, _DEVICE)

    def open(self, ciphertext: bytes) -> bytes:
        """The plaintext of the next frame.

        Raises ProtocolError, with the same sentence whatever is wrong, and from then on always: the keys are dropped.
        """
        direction, self._direction = self._direction, None
        if direction is None or len(ciphertext) < OVERHEAD_BYTES:
            raise ProtocolError("A frame did not open under its session's key.")
        nonce, associated = direction.next(len(ciphertext))
        try:
            plaintext = direction.cipher.decrypt(nonce, ciphertext, associated)
        except InvalidTag:
            raise ProtocolError("A frame did not open under its session's key.") from None
        self._direction = direction
        return plaintext
