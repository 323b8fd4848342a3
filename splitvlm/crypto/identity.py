"""An identity is a node at run time: its name, role, certificate, private key, and the authority that it trusts.

A node's folder, as `splitvlm keys issue` makes it:

    cert.pem   its certificate     key.pem   its private key, for its user only     ca.pem   the authority's certificate
    revoked.pem   the certificates that count no more (revocation.py); may be missing

A certificate is short-lived. Another one of the same node in the same folder (`splitvlm keys rotate`) counts from the next
connection on, without a restart: who is about to speak asks `newest()`.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import re
import stat
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from splitvlm.crypto.certificates import SCHEME
from splitvlm.crypto.followed import FollowedFiles
from splitvlm.crypto.lifetime import Lifetime, utc_now
from splitvlm.crypto.revocation import REVOKED_FILE, RevocationList
from splitvlm.errors import KeysError

CERTIFICATE_FILE: Final = "cert.pem"
KEY_FILE: Final = "key.pem"
AUTHORITY_FILE: Final = "ca.pem"

_log = logging.getLogger("splitvlm.crypto")
_ISSUE: Final = "Make a node's folder with `splitvlm keys issue NODE --role ROLE`."
_URI: Final = re.compile(rf"{SCHEME}://[a-z0-9.-]+/([a-z]+)/([a-z0-9](?:[a-z0-9-]{{0,61}}[a-z0-9])?)")


MALFORMED: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
)
"""What `cryptography` raises at certificates that are none, read lazily: at loading, at an extension, at the key."""


class Role(StrEnum):
    """Names what a certificate lets its holder do."""

    ORCHESTRATOR = "orchestrator"
    CLOUD = "cloud"
    EDGE = "edge"
    APP = "app"


@dataclass(frozen=True, slots=True)
class Identity:
    """Holds a node's own identity. The private key is PKCS #8 in PEM, unencrypted; it is in no repr."""

    node: str
    role: Role
    certificate_pem: bytes = field(repr=False)
    private_key_pem: bytes = field(repr=False)
    authority_pem: bytes = field(repr=False)
    require_post_quantum: bool = True  # of its peers, in the handshake
    revoked: RevocationList | None = field(default=None, repr=False, compare=False)
    renewal: Renewal | None = field(default=None, repr=False, compare=False)

    def newest(self) -> Identity:
        """Returns the identity that the folder holds now: another object where it was renewed since."""
        return self if self.renewal is None else self.renewal.newest()

    @property
    def lifetime(self) -> Lifetime:
        """Returns the lifetime of its certificate."""
        return Lifetime.of(x509.load_pem_x509_certificate(self.certificate_pem))

    def has_expired(self) -> bool:
        """Tells whether its certificate counts no more, by the clock."""
        return self.lifetime.has_expired(utc_now())


class Renewal:
    """Follows a node's folder, which it reads again whenever a file in it has changed. Any thread may ask."""

    def __init__(self, folder: Path, now: dt.datetime | None, *, require_post_quantum: bool) -> None:
        """Raises KeysError as load_identity does."""
        self._folder = folder
        self._now = now
        self._require_post_quantum = require_post_quantum
        self._node: tuple[str, Role] | None = None
        paths = [folder / name for name in (CERTIFICATE_FILE, KEY_FILE, AUTHORITY_FILE)]
        self._files = FollowedFiles(paths, self._read)

    def newest(self) -> Identity:
        """Returns the identity in the folder, or the one before it while the folder holds none that is whole, valid and this
        node's.
        """
        return self._files.newest()

    def _read(self) -> Identity:
        loaded = _load(self._folder, self._now or utc_now())
        identity = replace(loaded, renewal=self, require_post_quantum=self._require_post_quantum)
        node = identity.node, identity.role
        if self._node is None:
            self._node = node
        elif node == self._node:
            _log.warning("keys renewed", extra={"node": identity.node})
        else:
            raise KeysError(f"{self._folder} holds the keys of another node now, {identity.node} ({identity.role}).")
        return identity


def load_identity(folder: Path, *, now: dt.datetime | None = None, require_post_quantum: bool = True) -> Identity:
    """Returns the identity in a node's folder, checked at `now` (default: the clock).

    Raises KeysError if a file is missing or invalid, others may read the key, the key is another certificate's, the
    certificate is another authority's or revoked, or the time is outside of the certificate's.
    """
    return Renewal(folder, now, require_post_quantum=require_post_quantum).newest()


def _load(folder: Path, now: dt.datetime) -> Identity:
    certificate_pem, authority_pem = _read(folder / CERTIFICATE_FILE), _read(folder / AUTHORITY_FILE)
    private_key_pem = read_private(folder / KEY_FILE)
    certificate = _certificate(certificate_pem, folder / CERTIFICATE_FILE)
    authority = _certificate(authority_pem, folder / AUTHORITY_FILE)
    if private_key(private_key_pem).public_key() != certificate.public_key():
        raise KeysError(f"The key in {folder} is not that of the certificate beside it.", advice=_ISSUE)
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise KeysError(
            f"The certificate in {folder} was not issued by the ca.pem beside it.", advice=_ISSUE
        ) from error
    for each, name in ((certificate, CERTIFICATE_FILE), (authority, AUTHORITY_FILE)):
        _check_time(each, folder / name, now)
    node, role = name_in(certificate)
    revoked = RevocationList(folder / REVOKED_FILE, authority_pem)
    if certificate in revoked:
        raise KeysError(f"The certificate in {folder} has been revoked.", advice=_ISSUE)
    return Identity(node, role, certificate_pem, private_key_pem, authority_pem, revoked=revoked)


def peer_identity(certificate: bytes) -> tuple[str, Role]:
    """Returns the node and role that a certificate (PEM or DER) names. Raises KeysError.

    It does not say that the certificate is to be trusted: TLS (or splitvlm.crypto.trust) has said that before.
    """
    try:
        pem = certificate.startswith(b"-----BEGIN")
        parsed = x509.load_pem_x509_certificate(certificate) if pem else x509.load_der_x509_certificate(certificate)
    except MALFORMED as error:
        raise KeysError("The peer's certificate cannot be read.") from error
    return name_in(parsed)


def name_in(certificate: x509.Certificate) -> tuple[str, Role]:
    """Returns the node and role in the one URI `splitvlm://<domain>/<role>/<node>`. Raises KeysError."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        match = _URI.fullmatch(uri)
        if match is None:
            raise ValueError(uri)
        return match[2], Role(match[1])
    except MALFORMED as error:
        raise KeysError("A certificate names no node and role of splitvlm.", advice=_ISSUE) from error


def private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises KeysError unless it is an unencrypted key on P-256."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise KeysError("A private key cannot be read: it is no unencrypted PEM key.", advice=_ISSUE) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeysError("A private key is not ECDSA on P-256.", advice=_ISSUE)
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeysError(f"Cannot read {path}: {error.strerror}.", advice=_ISSUE) from error


def read_private(path: Path) -> bytes:
    """Returns the contents of a key file that its user alone may read, or a group of this process too, as containers mount
    secrets.

    Raises KeysError.
    """
    data = _read(path)
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~0o740:
        raise KeysError(f"Others than its user may read or change the key {path}.", advice=f"Run `chmod 600 {path}`.")
    if mode & 0o040 and status.st_gid not in (os.getegid(), *os.getgroups()):
        raise KeysError(
            f"The key {path} may be read by the group {status.st_gid}, to which this process does not belong.",
            advice=f"Run `chmod 600 {path}`, or run this process in that group (Kubernetes: `fsGroup`).",
        )
    return data


def _certificate(pem: bytes, path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise KeysError(f"{path} is not a certificate in PEM.", advice=_ISSUE) from error


def _check_time(certificate: x509.Certificate, path: Path, now: dt.datetime) -> None:
    lifetime = Lifetime.of(certificate)
    if lifetime.has_expired(now):
        raise KeysError(
            f"The certificate {path} {lifetime.expiry(now)}.",
            advice="Make another with `splitvlm keys rotate NODE`, and copy its files here.",
        )
    if now < lifetime.begin:
        raise KeysError(
            f"The certificate {path} is valid only from {lifetime.begin:%Y-%m-%d %H:%M} UTC.",
            advice="Check this machine's clock.",
        )
