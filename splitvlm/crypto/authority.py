"""`splitvlm keys`: a folder with a certificate authority, the nodes that it issued, and a table of them.

    FOLDER/ca.pem          the authority's certificate; a copy is in each node's folder
    FOLDER/ca.key          its private key, for its user only: it stays here, and no node needs it
    FOLDER/issued.jsonl    every certificate that it issued (ledger.py), for its user only
    FOLDER/revoked.pem     certificates that count no more; a copy is in each node's folder, and counts where it is
    FOLDER/<node>/         one node's folder (identity.py); copy it to the node, and delete it here if you like

Nothing is ever overwritten but by `rotate` and `revoke`, and the ledger only grows.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from splitvlm.crypto import certificates, identity, ledger
from splitvlm.crypto.identity import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, Role
from splitvlm.crypto.keyfiles import locked, make_folder, replace, write_new
from splitvlm.crypto.lifetime import Lifetime, utc_now
from splitvlm.crypto.revocation import REVOKED_FILE, serials_in, signed_list
from splitvlm.errors import KeysError

AUTHORITY_KEY_FILE: Final = "ca.key"
AUTHORITY_DAYS: Final = 3650.0
NODE_DAYS: Final = 30.0
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # as splitvlm.settings.NodeName
_DOMAIN: Final = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")


@dataclass(frozen=True, slots=True)
class CertificateEntry:
    """Describes one certificate of a folder, as `splitvlm keys show` prints it. The authority's role is `authority`."""

    name: str
    role: str
    serial: str  # hexadecimal
    not_after: dt.datetime  # UTC
    names: tuple[str, ...]  # URI, DNS names and IP addresses that it stands for
    note: str = ""  # what its owner should know: that it expires, or counts no more


def init_authority(folder: Path, *, domain: str = "splitvlm", days: float = AUTHORITY_DAYS) -> None:
    """Makes a new authority in `folder`. Raises KeysError if there is one, or the folder cannot be written."""
    if _DOMAIN.fullmatch(domain) is None:
        raise KeysError(f"'{domain}' is not a domain.", advice="Lower-case letters, digits, hyphens and dots.")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = certificates.authority_certificate(key, domain, utc_now(), days)
    taken = "That folder has an authority: choose another one, or remove it with all certificates that it issued."
    make_folder(folder)
    write_new(folder / AUTHORITY_KEY_FILE, _private_pem(key), 0o600, advice=taken)
    write_new(folder / AUTHORITY_FILE, certificate.public_bytes(Encoding.PEM), 0o644, advice=taken)


def issue(folder: Path, node: str, role: Role, *, hosts: Sequence[str] = LOOPBACK, days: float = NODE_DAYS) -> Path:
    """Makes a key and certificate for a node. Returns its folder. `hosts`: DNS names and IP addresses where it is reached.

    Raises KeysError if `folder` has no authority, the node has a certificate already, or a name is invalid.
    """
    if _LABEL.fullmatch(node) is None:
        raise KeysError(f"'{node}' cannot name a node.", advice="Lower-case letters, digits and hyphens, at most 63.")
    made, key = folder / node, ec.generate_private_key(ec.SECP256R1())
    taken = "That node has a key: remove its folder to issue another, or choose another name."
    with _opened(folder) as authority:
        certificate = authority.certified(key, node, role, hosts, days)
        make_folder(made)
        write_new(made / KEY_FILE, _private_pem(key), 0o600, advice=taken)
        ledger.record(folder, [certificate])
        write_new(made / CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM), 0o644, advice=taken)
        write_new(made / AUTHORITY_FILE, authority.pem, 0o644, advice=taken)
        if (folder / REVOKED_FILE).exists():
            replace(made / REVOKED_FILE, (folder / REVOKED_FILE).read_bytes(), 0o644)
    return made


def rotate(folder: Path, node: str, *, days: float = NODE_DAYS) -> Path:
    """Makes another key and certificate for a node, of the same role and names, in its folder; returns that.

    The old certificate counts until its end, or until the node is revoked. Raises KeysError.
    """
    made, key = folder / node, ec.generate_private_key(ec.SECP256R1())
    with _opened(folder) as authority:
        old = _load_certificate(made / CERTIFICATE_FILE)
        name, role = identity.name_in(old)
        certificate = authority.certified(key, name, role, certificates.hosts_in(old), days)
        ledger.record(folder, [certificate])
        replace(made / KEY_FILE, _private_pem(key), 0o600)
        replace(made / CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM), 0o644)
    return made


def revoke(folder: Path, node: str) -> Path:
    """Puts every certificate that was ever issued to a node on the authority's list. Returns its path.

    The list comes beside every node's keys here, too. Raises KeysError, also where the ledger knows nothing of the node.
    """
    path = folder / REVOKED_FILE
    with _opened(folder) as authority:
        serials = {entry.serial for entry in authority.issued if entry.node == node}
        if not serials:
            raise KeysError(
                f"The authority in {folder} knows of no certificate of '{node}'.",
                advice="`splitvlm keys show` lists the nodes.",
            )
        serials |= serials_in(path, authority.pem)
        data = signed_list(serials, authority.certificate, authority.key, utc_now())
        for each in (folder, *(certificate_file.parent for certificate_file in _node_files(folder))):
            replace(each / REVOKED_FILE, data, 0o644)
    return path


def show(folder: Path) -> list[CertificateEntry]:
    """Returns the authority, then the certificates of nodes by name: those in the folders here, and others that count still.

    Raises KeysError.
    """
    authority = _load_certificate(folder / AUTHORITY_FILE)
    revoked = serials_in(folder / REVOKED_FILE, authority.public_bytes(Encoding.PEM))
    rows = [_row(certificate, revoked) for certificate in map(_load_certificate, _node_files(folder))]
    serials_here, now = {row.serial for row in rows}, utc_now()
    elsewhere = [
        CertificateEntry(
            entry.node, entry.role, f"{entry.serial:x}", entry.until, (), "its file is not here; it counts still"
        )
        for entry in ledger.read_ledger(folder).values()
        if f"{entry.serial:x}" not in serials_here and entry.serial not in revoked and entry.until >= now
    ]
    first = CertificateEntry(
        *(certificates.domain_of(authority), "authority", f"{authority.serial_number:x}"),
        *(authority.not_valid_after_utc, (), _note(authority, frozenset())),
    )
    return [first, *sorted([*rows, *elsewhere], key=lambda row: (row.name, row.not_after))]


@dataclass(frozen=True, slots=True)
class _Authority:
    """Holds an authority's certificate and key, and what it has issued so far."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    issued: tuple[ledger.IssuedCertificate, ...]

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def certified(
        self, key: ec.EllipticCurvePrivateKey, node: str, role: Role, hosts: Sequence[str], days: float
    ) -> x509.Certificate:
        """Returns a certificate that ends in `days`, or with the authority.

        Raises KeysError where one of `hosts` is invalid.
        """
        domain, serves = certificates.domain_of(self.certificate), role is not Role.APP
        try:
            names = certificates.names_of_node(domain, role, node, hosts, serves=serves)
        except ValueError as error:
            raise KeysError(
                f"Among {', '.join(hosts)} is no DNS name or IP address.",
                advice=f"Names under {certificates.SERVER_SUFFIX} are splitvlm's own.",
            ) from error
        now = utc_now()
        days_left = (self.certificate.not_valid_after_utc - now) / dt.timedelta(days=1)
        return certificates.node_certificate(
            key.public_key(), names, self.certificate, self.key, now, min(days, days_left)
        )


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[_Authority]:
    """Opens the authority in `folder`, while no other process changes it; what its nodes' folders hold is in its ledger."""
    with locked(folder / AUTHORITY_KEY_FILE):
        certificate, key = _load_authority(folder)
        certificates_here = map(_load_certificate, _node_files(folder))
        issued = ledger.record(folder, (each for each in certificates_here if _is_issued_by(certificate, each)))
        yield _Authority(certificate, key, tuple(issued.values()))


def _node_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*/{CERTIFICATE_FILE}"))


def _is_issued_by(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _load_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = _load_certificate(folder / AUTHORITY_FILE)
    key = identity.private_key(identity.read_private(folder / AUTHORITY_KEY_FILE))
    if key.public_key() != certificate.public_key():
        raise KeysError(f"The authority's key and certificate in {folder} do not belong together.")
    if utc_now() > certificate.not_valid_after_utc:
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


def _row(certificate: x509.Certificate, revoked: frozenset[int]) -> CertificateEntry:
    node, role = identity.name_in(certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return CertificateEntry(
        *(node, role, f"{certificate.serial_number:x}", certificate.not_valid_after_utc),
        *((*uris, *certificates.hosts_in(certificate)), _note(certificate, revoked)),
    )


def _note(certificate: x509.Certificate, revoked: frozenset[int]) -> str:
    lifetime, now = Lifetime.of(certificate), utc_now()
    if certificate.serial_number in revoked:
        return "revoked"
    return lifetime.expiry(now) if lifetime.is_expiring(now) else ""


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
