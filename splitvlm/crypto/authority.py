"""`splitvlm keys`: a folder with a certificate authority, the nodes that it issued, and a table of them.

    FOLDER/ca.pem          the authority's certificate; a copy is in each node's folder
    FOLDER/ca.key          its private key, for its user only: it stays here, and no node needs it
    FOLDER/<node>/         one node's folder (identity.py); copy it to the node, and delete it here if you like

    FOLDER/revoked.pem     certificates that count no more; a copy is in each node's folder, and counts where it is

Nothing is ever overwritten but by `rotate` and `revoke`.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from splitvlm.crypto import certificates, identity
from splitvlm.crypto.identity import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, Role
from splitvlm.crypto.revocation import REVOKED_FILE, serials_in, signed_list
from splitvlm.errors import KeysError

AUTHORITY_KEY_FILE: Final = "ca.key"
AUTHORITY_DAYS: Final = 3650.0
NODE_DAYS: Final = 30.0
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # as splitvlm.settings.NodeName
_DOMAIN: Final = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")


@dataclass(frozen=True, slots=True)
class Row:
    """One certificate of a folder, as `splitvlm keys show` prints it. The authority's role is `authority`."""

    name: str
    role: str
    serial: str  # hexadecimal
    not_after: dt.datetime  # UTC
    names: tuple[str, ...]  # URI, DNS names and IP addresses that it stands for


def init_authority(folder: Path, *, domain: str = "splitvlm", days: float = AUTHORITY_DAYS) -> None:
    """Make a new authority in `folder`. Raises KeysError if there is one, or the folder cannot be written."""
    if _DOMAIN.fullmatch(domain) is None:
        raise KeysError(f"'{domain}' is not a domain.", advice="Lower-case letters, digits, hyphens and dots.")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = certificates.authority_certificate(key, domain, dt.datetime.now(dt.UTC), days)
    taken = "That folder has an authority: choose another one, or remove it with all certificates that it issued."
    _make_folder(folder)
    _write(folder / AUTHORITY_KEY_FILE, _private_pem(key), 0o600, advice=taken)
    _write(folder / AUTHORITY_FILE, certificate.public_bytes(Encoding.PEM), 0o644, advice=taken)


def issue(folder: Path, node: str, role: Role, *, hosts: Sequence[str] = LOOPBACK, days: float = NODE_DAYS) -> Path:
    """Make a key and certificate for a node; return its folder. `hosts`: DNS names and IP addresses where it is reached.

    Raises KeysError if `folder` has no authority, the node has a certificate already, or a name is none.
    """
    if _LABEL.fullmatch(node) is None:
        raise KeysError(f"'{node}' cannot name a node.", advice="Lower-case letters, digits and hyphens, at most 63.")
    authority, authority_key = _load_authority(folder)
    try:
        names = certificates.names_of_node(certificates.domain_of(authority), role, node, hosts)
    except ValueError as error:
        raise KeysError(f"Among {', '.join(hosts)} is no DNS name or IP address.") from error
    now = dt.datetime.now(dt.UTC)
    days_left = (authority.not_valid_after_utc - now) / dt.timedelta(days=1)  # none outlives its authority
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = certificates.node_certificate(
        key.public_key(), names, authority, authority_key, now, min(days, days_left)
    )
    made = _write_node(folder / node, key, certificate, authority)
    if (folder / REVOKED_FILE).exists():
        _replace(made / REVOKED_FILE, (folder / REVOKED_FILE).read_bytes(), 0o644)
    return made


def rotate(folder: Path, node: str, *, days: float = NODE_DAYS) -> Path:
    """Another key and certificate for a node, of the same role and names, in its folder; return that.

    The old certificate counts until its end, or until it is revoked. Raises KeysError.
    """
    authority, authority_key = _load_authority(folder)
    old = _load_certificate(folder / node / CERTIFICATE_FILE)
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    now = dt.datetime.now(dt.UTC)
    days_left = (authority.not_valid_after_utc - now) / dt.timedelta(days=1)
    key = ec.generate_private_key(ec.SECP256R1())
    new = certificates.node_certificate(
        key.public_key(), list(names), authority, authority_key, now, min(days, days_left)
    )
    _replace(folder / node / KEY_FILE, _private_pem(key), 0o600)
    _replace(folder / node / CERTIFICATE_FILE, new.public_bytes(Encoding.PEM), 0o644)
    return folder / node


def revoke(folder: Path, node: str) -> Path:
    """Put a node's certificate on the authority's list, and the list beside every node's keys here; return its path.

    Raises KeysError.
    """
    authority, authority_key = _load_authority(folder)
    authority_pem = authority.public_bytes(Encoding.PEM)
    certificate = _load_certificate(folder / node / CERTIFICATE_FILE)
    path = folder / REVOKED_FILE
    serials = serials_in(path, authority_pem) | {certificate.serial_number}
    data = signed_list(serials, authority, authority_key, dt.datetime.now(dt.UTC))
    for each in (folder, *(found.parent for found in folder.glob(f"*/{CERTIFICATE_FILE}"))):
        _replace(each / REVOKED_FILE, data, 0o644)
    return path


def show(folder: Path) -> list[Row]:
    """The authority, then the nodes whose folders lie in `folder`, by name. Raises KeysError."""
    found = [folder / AUTHORITY_FILE, *sorted(folder.glob(f"*/{CERTIFICATE_FILE}"))]
    return [_row(path) for path in found]


def _write_node(
    folder: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, authority: x509.Certificate
) -> Path:
    taken = "That node has a key: remove its folder to issue another, or choose another name."
    _make_folder(folder)
    _write(folder / KEY_FILE, _private_pem(key), 0o600, advice=taken)
    _write(folder / CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM), 0o644, advice=taken)
    _write(folder / AUTHORITY_FILE, authority.public_bytes(Encoding.PEM), 0o644, advice=taken)
    return folder


def _load_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = _load_certificate(folder / AUTHORITY_FILE)
    try:
        key = identity.private_key((folder / AUTHORITY_KEY_FILE).read_bytes())
    except OSError as error:
        raise KeysError(f"Cannot read the authority's key in {folder}: {error.strerror}.") from error
    if key.public_key() != certificate.public_key():
        raise KeysError(f"The authority's key and certificate in {folder} do not belong together.")
    if dt.datetime.now(dt.UTC) > certificate.not_valid_after_utc:
        raise KeysError(f"The authority in {folder} has expired.", advice="Make a new one in another folder.")
    return certificate, key


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise KeysError(
            f"Cannot read {path}: {error.strerror}.", advice="Make an authority with `splitvlm keys init`."
        ) from error
    except ValueError as error:
        raise KeysError(f"{path} is not a certificate in PEM.") from error


def _row(path: Path) -> Row:
    certificate = _load_certificate(path)
    serial, not_after = f"{certificate.serial_number:x}", certificate.not_valid_after_utc
    if path.name == AUTHORITY_FILE:
        return Row(certificates.domain_of(certificate), "authority", serial, not_after, ())
    node, role = identity.name_in(certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return Row(node, role, serial, not_after, tuple(str(name.value) for name in names))


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KeysError(f"Cannot make the folder {folder}: {error.strerror}.") from error


def _replace(path: Path, data: bytes, mode: int) -> None:
    """A file that is the old one or the new one at any moment."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    _write(fresh, data, mode, advice="Try again.")
    fresh.replace(path)


def _write(path: Path, data: bytes, mode: int, *, advice: str) -> None:
    """A new file that has its mode before it has its contents."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise KeysError(f"{path} exists, and is not overwritten.", advice=advice) from error
    except OSError as error:
        raise KeysError(f"Cannot write {path}: {error.strerror}.") from error
