"""Agrees on session keys between device and cloud worker, by one message each way, sans-IO.

    device -> cloud   Hello  ephemeral public keys (exchange.py), certificate, signature over T1
    cloud -> device   Reply  ephemeral public keys, certificate, signature over T2

    T1 = H(version, "edge",  context hash, device key, device certificate)
    T2 = H(version, "cloud", T1, device signature, cloud key, cloud certificate)
    T3 = H(version, "keys",  T2, cloud signature)       salt of the session keys (session_keys.py)

H is SHA-256 over the parts, each preceded by its length (32 bits). The context is what both nodes agreed on before:
protocol version, weights, processor, codec. Who does not hold the same one gets no signature right, and other keys.

The device's signature cannot cover the cloud's key, which it has not seen: a replayed Hello makes a cloud node answer,
but its sender lacks the ephemeral key and can seal nothing. Both signatures enter the keys. Ephemeral keys are used once
and dropped, so that a stolen node key opens no recorded session.

Without identities (plaintext on loopback, asked for) nothing is signed: such a session is private against who listens,
not against who intercepts. A side that has an identity refuses a peer that shows none, and the reverse. A peer whose ephemeral
keys are of X25519 alone is refused unless the identity allows it (`security.require_post_quantum: false`).
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from splitvlm.crypto import exchange, session_keys
from splitvlm.crypto.exchange import X25519_BYTES, DeviceKeys
from splitvlm.crypto.identity import Identity, Role, private_key
from splitvlm.crypto.lifetime import utc_now
from splitvlm.crypto.session_keys import SessionKeys
from splitvlm.crypto.trust import trusted_key
from splitvlm.errors import HandshakeRefused, KeysError, ProtocolError

VERSION: Final = b"splitvlm handshake 2"
_ECDSA: Final = ec.ECDSA(hashes.SHA256())

Clock = Callable[[], dt.datetime]


@dataclass(frozen=True, slots=True)
class HandshakeMessage:
    """Holds one side's message. Certificate (DER) and signature (ECDSA P-256, DER) are empty where nothing is signed."""

    ephemeral_public: bytes
    certificate_der: bytes = field(default=b"", repr=False)
    signature: bytes = field(default=b"", repr=False)


class Hello(HandshakeMessage):
    """Is the device's message."""

    __slots__ = ()


class Reply(HandshakeMessage):
    """Is the cloud worker's message."""

    __slots__ = ()


class DeviceHandshake:
    """Runs the device's side, for one session."""

    def __init__(self, identity: Identity | None, context: bytes, *, clock: Clock = utc_now) -> None:
        """Raises KeysError for an identity whose role is not `edge`."""
        self._signer = _Signer(identity, Role.EDGE, clock)
        self._context_hash = hashlib.sha256(context).digest()
        self._ephemeral: DeviceKeys | None = DeviceKeys()
        self._hello = self._make_hello(self._ephemeral)

    def hello(self) -> Hello:
        """Returns the message to send. It stays the same when asked for again."""
        return self._hello

    def finish(self, reply: Reply) -> SessionKeys:
        """Returns the session's keys, once. Raises HandshakeRefused, KeysError, PermissionRefused, ProtocolError."""
        ephemeral, self._ephemeral = self._ephemeral, None
        if ephemeral is None:
            raise ProtocolError("A handshake can be finished only once.")
        t1 = _t1(self._context_hash, self._hello)
        t2 = _t2(t1, self._hello, reply)
        self._signer.check(reply, Role.CLOUD, t2)
        return _keys(ephemeral.shared(reply.ephemeral_public), t2, reply.signature, self._context_hash)

    def _make_hello(self, ephemeral: DeviceKeys) -> Hello:
        unsigned = Hello(ephemeral.public, self._signer.certificate_der)
        signature = self._signer.sign(_t1(self._context_hash, unsigned))
        return Hello(unsigned.ephemeral_public, unsigned.certificate_der, signature)


class CloudHandshake:
    """Runs the cloud worker's side, for one session."""

    def __init__(self, identity: Identity | None, context: bytes, *, clock: Clock = utc_now) -> None:
        """Raises KeysError for an identity whose role is not `cloud`."""
        self._signer = _Signer(identity, Role.CLOUD, clock)
        self._context_hash = hashlib.sha256(context).digest()

    def accept(self, hello: Hello) -> tuple[Reply, SessionKeys]:
        """Returns the message to send back, and the session's keys: fresh ones for each call.

        Raises HandshakeRefused, KeysError, PermissionRefused, ProtocolError.
        """
        t1 = _t1(self._context_hash, hello)
        self._signer.check(hello, Role.EDGE, t1)
        public, shared = exchange.answer(hello.ephemeral_public)
        unsigned = Reply(public, self._signer.certificate_der)
        t2 = _t2(t1, hello, unsigned)
        reply = Reply(unsigned.ephemeral_public, unsigned.certificate_der, self._signer.sign(t2))
        return reply, _keys(shared, t2, reply.signature, self._context_hash)


class _Signer:
    """Signs as one's own identity, and checks the peer's; or, without an identity, sees that nobody signs."""

    def __init__(self, identity: Identity | None, role: Role, clock: Clock) -> None:
        if identity is not None and identity.role is not role:
            raise KeysError(f"This node's certificate is for the role {identity.role}, where {role} is wanted.")
        identity = identity.newest() if identity is not None else None
        self._identity = identity
        self._clock = clock
        self.certificate_der = b"" if identity is None else _der(identity.certificate_pem)

    def sign(self, transcript: bytes) -> bytes:
        if self._identity is None:
            return b""
        return private_key(self._identity.private_key_pem).sign(transcript, _ECDSA)

    def check(self, offer: HandshakeMessage, role: Role, transcript: bytes) -> None:
        signed = bool(offer.certificate_der or offer.signature)
        if self._identity is None:
            if signed:
                raise HandshakeRefused(
                    "The peer signs its handshake, but this node runs in plaintext.",
                    advice="Give both nodes keys (`security.keys`), or neither.",
                )
            return
        if not signed:
            raise HandshakeRefused(
                "The peer shows no certificate in its handshake.",
                advice="Give both nodes keys (`security.keys`), or neither.",
            )
        mine = self._identity
        key = trusted_key(offer.certificate_der, mine.authority_pem, role, self._clock(), mine.revoked)
        try:
            key.verify(offer.signature, transcript, _ECDSA)
        except InvalidSignature as error:
            raise HandshakeRefused("The peer's signature does not fit this handshake.") from error
        if mine.require_post_quantum and len(offer.ephemeral_public) == X25519_BYTES:
            raise HandshakeRefused(
                "The peer agrees on keys by X25519 alone, without ML-KEM-768, and this node requires both.",
                advice="Update `cryptography` on the peer, or set security.require_post_quantum to false here.",
            )


def _t1(context_hash: bytes, hello: HandshakeMessage) -> bytes:
    return _hash(b"edge", context_hash, hello.ephemeral_public, hello.certificate_der)


def _t2(t1: bytes, hello: HandshakeMessage, reply: HandshakeMessage) -> bytes:
    return _hash(b"cloud", t1, hello.signature, reply.ephemeral_public, reply.certificate_der)


def _keys(shared: bytes, t2: bytes, cloud_signature: bytes, context_hash: bytes) -> SessionKeys:
    return session_keys.derive(shared, _hash(b"keys", t2, cloud_signature), context_hash)


def _hash(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in (VERSION, *parts):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.digest()


def _der(certificate_pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(certificate_pem).public_bytes(Encoding.DER)
