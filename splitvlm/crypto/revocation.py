"""Certificates that count no more before their time: the authority's signed list (a CRL, RFC 5280), a file in a node's folder.

A node looks at its copy again whenever the file has changed, so that a new list counts without a restart. Without the file
nothing is revoked.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from splitvlm.crypto.followed import FollowedFiles
from splitvlm.errors import KeysError

REVOKED_FILE: Final = "revoked.pem"
_VALID: Final = dt.timedelta(days=3650)  # the list is replaced, not renewed
_log = logging.getLogger("splitvlm.crypto")


class RevocationList:
    """Follows the serial numbers of one folder's list. What was revoked once stays revoked, whatever becomes of the file."""

    def __init__(self, path: Path, authority_pem: bytes) -> None:
        """Raises KeysError where there is a list that cannot be read, or is not the authority's."""
        self._path = path
        self._authority_pem = authority_pem
        self._serials: frozenset[int] = frozenset()
        self._file = FollowedFiles([path], self._read)

    def __contains__(self, certificate: x509.Certificate) -> bool:
        return certificate.serial_number in self._file.newest()

    def _read(self) -> frozenset[int]:
        serials = serials_in(self._path, self._authority_pem)
        if self._serials and not serials:
            raise KeysError(f"{self._path} is gone or empty.", advice="Copy the authority's again.")
        if serials - self._serials:
            _log.warning("%s read: %d certificates are revoked", self._path.name, len(serials | self._serials))
        self._serials |= serials
        return self._serials


def serials_in(path: Path, authority_pem: bytes) -> frozenset[int]:
    """Reads the serials of a list that the authority signed; none where there is no file. Raises KeysError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise KeysError(f"Cannot read {path}: {error.strerror}.") from error
    key = x509.load_pem_x509_certificate(authority_pem).public_key()
    try:
        revoked = x509.load_pem_x509_crl(data)
    except ValueError as error:
        raise KeysError(f"{path} is no list of revoked certificates.", advice="Copy the authority's again.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not revoked.is_signature_valid(key):
        raise KeysError(f"{path} is not signed by the ca.pem beside it.", advice="Copy the authority's again.")
    return frozenset(each.serial_number for each in revoked)


def signed_list(
    serials: Iterable[int], authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, now: dt.datetime
) -> bytes:
    """Returns the list in PEM."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(now).next_update(now + _VALID)
    for serial in sorted(serials):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM)
