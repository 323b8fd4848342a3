"""Whether a peer's certificate is one of ours: issued by our authority, in its time, for the role that it must have."""

from __future__ import annotations

import datetime as dt
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from splitvlm.crypto.identity import MALFORMED, Role, name_in
from splitvlm.crypto.revocation import Revoked
from splitvlm.errors import KeysError, PermissionRefused

MAX_CERTIFICATE_BYTES: Final = 8192
"""Longer certificates are not parsed. Ours take about 700 bytes."""


def trusted_key(
    certificate_der: bytes, authority_pem: bytes, role: Role, now: dt.datetime, revoked: Revoked | None = None
) -> ec.EllipticCurvePublicKey:
    """The public key in a peer's certificate, after RFC 5280 path validation at `now` (UTC).

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
    except (*MALFORMED, verification.VerificationError) as error:
        raise KeysError("The peer's certificate is not one of our authority's, or not valid now.") from error
    if revoked is not None and certificate in revoked:
        raise KeysError("The peer's certificate has been revoked.")
    _, found = name_in(certificate)
    if found is not role:
        raise PermissionRefused(f"The peer's certificate is for the role {found}, where {role} is wanted.")
    try:
        key = certificate.public_key()
    except MALFORMED as error:
        raise KeysError("The peer's key cannot be read.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeysError("The peer's key is not ECDSA on P-256.")
    return key
