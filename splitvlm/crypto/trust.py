"""Checks that a peer's certificate is one of ours: issued by our authority, in its time, for the role that it must have."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from splitvlm.crypto.identity import MALFORMED, Identity, Role, name_in
from splitvlm.crypto.lifetime import Lifetime, utc_now
from splitvlm.crypto.revocation import RevocationList
from splitvlm.errors import KeysError, PermissionRefused

_ROTATE: Final = "`splitvlm keys rotate NODE` makes another: its files count at once in that node's folder."
MAX_CERTIFICATE_BYTES: Final = 8192
"""Longer certificates are not parsed. Ours take about 700 bytes."""


def require_current(certificate: x509.Certificate, revoked: RevocationList | None, now: dt.datetime) -> None:
    """Raises KeysError where a certificate counts no more, which was trusted before: it has expired, or is revoked."""
    lifetime = Lifetime.of(certificate)
    if lifetime.has_expired(now):
        raise KeysError(f"The certificate of {_whose(certificate)} {lifetime.expiry(now)}.", advice=_ROTATE)
    if revoked is not None and certificate in revoked:
        raise KeysError(f"The certificate of {_whose(certificate)} has been revoked.", advice=_ROTATE)


def still_trusted(certificate_der: bytes, identity: Identity | None) -> Callable[[], None]:
    """Returns what the owner of `identity` calls before each request of a session whose handshake trusted this certificate.

    It raises KeysError where the certificate counts no more; without an identity (in plaintext) it never does.
    """
    if identity is None:
        return lambda: None
    certificate = x509.load_der_x509_certificate(certificate_der)
    return lambda: require_current(certificate, identity.newest().revoked, utc_now())


def _whose(certificate: x509.Certificate) -> str:
    try:
        return name_in(certificate)[0]
    except KeysError:
        return "the peer"


def trusted_key(
    certificate_der: bytes, authority_pem: bytes, role: Role, now: dt.datetime, revoked: RevocationList | None = None
) -> ec.EllipticCurvePublicKey:
    """Returns the public key in a peer's certificate, after RFC 5280 path validation at `now` (UTC).

    Raises KeysError if the certificate is malformed, expired, revoked or of another authority; PermissionRefused if its role is
    not `role`.
    """
    if len(certificate_der) > MAX_CERTIFICATE_BYTES:
        raise KeysError("The peer's certificate is too long.")
    store = verification.Store(x509.load_pem_x509_certificates(authority_pem))
    verifier = verification.PolicyBuilder().store(store).time(now).max_chain_depth(0).build_client_verifier()
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        verifier.verify(certificate, [])
    except verification.VerificationError as error:
        require_current(certificate, None, now)
        raise KeysError("The peer's certificate is not one of our authority's, or not valid now.") from error
    except MALFORMED as error:
        raise KeysError("The peer's certificate cannot be read.") from error
    require_current(certificate, revoked, now)
    _, peer_role = name_in(certificate)
    if peer_role is not role:
        raise PermissionRefused(f"The peer's certificate is for the role {peer_role}, where {role} is wanted.")
    try:
        key = certificate.public_key()
    except MALFORMED as error:
        raise KeysError("The peer's key cannot be read.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeysError("The peer's key is not ECDSA on P-256.")
    return key
