"""Frames sealed and opened in order, one direction of one session.

    frame = AES-256-GCM(key, nonce, associated data, plaintext)          16 bytes longer than the plaintext (the tag)
    nonce = the direction's iv XOR the frame's counter, 96 bits          (as TLS 1.3, RFC 8446 5.3)
    associated data = version u8 · context hash 32 · session id 16 · direction u8 · counter u64 (big-endian)

The counter starts at 0 and is not sent: both sides count. So a frame that is repeated, dropped, reordered, reflected or
from another session does not open, and neither does a changed or cut one. After the first that fails nothing opens any
more: there is no way back into step.

A key is used for REKEY_FRAMES frames or REKEY_BYTES bytes at most; the next one is derived from it (session_keys.py), by both
sides at the same frame, for both count. What was sealed before cannot be opened with the key of later.

Neither class is for use by several threads at once.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from splitvlm.crypto.session_keys import DirectionKey, SessionKeys, following
from splitvlm.errors import ProtocolError

OVERHEAD_BYTES: Final = 16
# AES-GCM keeps its margin up to about 2**38 bytes a key (RFC 8446 5.5). We stay far below, whatever the frames.
REKEY_FRAMES: Final = 1 << 20
REKEY_BYTES: Final = 1 << 32

_VERSION: Final = b"\x01"
_DEVICE: Final = b"\x00"
_CLOUD: Final = b"\x01"


class _Direction:
    """Holds one direction's cipher and count of frames."""

    def __init__(self, keys: SessionKeys, sender: bytes) -> None:
        self._use(keys.of_device if sender == _DEVICE else keys.of_cloud)
        self._prefix = _VERSION + keys.context_hash + keys.session_id + sender
        self._counter = 0

    def _use(self, key: DirectionKey) -> None:
        self._key = key
        self.cipher = AESGCM(key.key)
        self._iv = int.from_bytes(key.iv, "big")
        self._frames_left, self._bytes_left = REKEY_FRAMES, REKEY_BYTES

    def next(self, sealed_bytes: int) -> tuple[bytes, bytes]:
        """Returns nonce and associated data of the next frame, whose key is `cipher`'s from now on."""
        if self._frames_left <= 0 or self._bytes_left < sealed_bytes:
            self._use(following(self._key))
        self._frames_left -= 1
        self._bytes_left -= sealed_bytes
        counter, self._counter = self._counter, self._counter + 1
        return (self._iv ^ counter).to_bytes(12, "big"), self._prefix + counter.to_bytes(8, "big")


class Sealer:
    """Seals what one side sends."""

    def __init__(self, keys: SessionKeys, sender: bytes) -> None:
        self._direction = _Direction(keys, sender)

    @classmethod
    def of_device(cls, keys: SessionKeys) -> Sealer:
        """Returns the device's sealer, for what it sends."""
        return cls(keys, _DEVICE)

    @classmethod
    def of_cloud(cls, keys: SessionKeys) -> Sealer:
        """Returns the cloud worker's sealer, for what it sends."""
        return cls(keys, _CLOUD)

    def seal(self, plaintext: bytes) -> bytes:
        """Seals the next frame, which becomes OVERHEAD_BYTES longer."""
        nonce, associated = self._direction.next(len(plaintext) + OVERHEAD_BYTES)
        return self._direction.cipher.encrypt(nonce, plaintext, associated)


class Opener:
    """Opens what one side receives, in the order in which it was sealed."""

    def __init__(self, keys: SessionKeys, sender: bytes) -> None:
        self._direction: _Direction | None = _Direction(keys, sender)

    @classmethod
    def of_device(cls, keys: SessionKeys) -> Opener:
        """Returns the device's opener, for what the cloud sends."""
        return cls(keys, _CLOUD)

    @classmethod
    def of_cloud(cls, keys: SessionKeys) -> Opener:
        """Returns the cloud worker's opener, for what the device sends."""
        return cls(keys, _DEVICE)

    def open(self, ciphertext: bytes) -> bytes:
        """Opens the next frame and returns its plaintext.

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
