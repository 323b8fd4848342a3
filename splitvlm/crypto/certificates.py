"""The X.509 certificates (RFC 5280) of the authority and of nodes: what stands in them, and nothing about files.

Keys are ECDSA on P-256: BoringSSL, which gRPC is built on, offers no Ed25519 among its TLS signatures by default.
A node's certificate names it by a URI (the manner of SPIFFE), by its DNS name, by the hosts where it is reached, and, where
its role serves others, by a server name for each of these:

    splitvlm://<domain>/<role>/<node>
    <host>.<role>.splitvlm.internal

A client asks TLS for the server name of the role and host that it means to reach (splitvlm.rpc.channels). So TLS itself
refuses a valid certificate of another role, or of another host, before anything is sent. `.internal` is reserved for private
use (ICANN, 2024): no public name is like these.

A certificate serves both ends of TLS, because nodes are servers and clients at once.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SCHEME: Final = "splitvlm"
SERVER_SUFFIX: Final = "splitvlm.internal"
_HOST: Final = re.compile(
    r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,215}[A-Za-z0-9_])?"
)  # a server name has 255 letters at most
_CLOCK_SKEW: Final = dt.timedelta(minutes=10)  # a device without a clock battery may run behind


def node_uri(domain: str, role: str, node: str) -> str:
    """Returns the URI that names a node in its certificate's subjectAltName."""
    return f"{SCHEME}://{domain}/{role}/{node}"


def authority_certificate(
    key: ec.EllipticCurvePrivateKey, domain: str, now: dt.datetime, days: float
) -> x509.Certificate:
    """Returns a self-signed certificate, which may sign node certificates, and no further authorities."""
    name = _name(domain, "splitvlm authority")
    builder = _dated(name, name, key.public_key(), now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(subject_key, critical=False).sign(key, hashes.SHA256())


def node_certificate(
    public_key: ec.EllipticCurvePublicKey,
    names: Sequence[x509.GeneralName],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: dt.datetime,
    days: float,
) -> x509.Certificate:
    """Returns a certificate that the authority signed, for TLS servers and clients and for signatures in the handshake."""
    subject = _name(domain_of(authority), "splitvlm node")  # the names that count are in the extension
    builder = _dated(subject, authority.subject, public_key, now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    both_ends = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(both_ends), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    return builder.add_extension(signer, critical=False).sign(authority_key, hashes.SHA256())


def domain_of(authority: x509.Certificate) -> str:
    """Returns the domain that an authority was made for: the organisation in its subject."""
    return str(authority.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)


def names_of_node(domain: str, role: str, node: str, hosts: Sequence[str], *, serves: bool) -> list[x509.GeneralName]:
    """Returns the URI, the node's DNS name, `hosts` (DNS names, IP addresses), and their server names if it `serves`, each
    once.

    Raises ValueError for a host that is invalid, or that is a server name.
    """
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(node_uri(domain, role, node)), x509.DNSName(node)]
    names += map(_host_name, hosts)
    if serves:
        names += [x509.DNSName(server_name(role, host)) for host in (node, *hosts)]
    return list(dict.fromkeys(names))


def hosts_in(certificate: x509.Certificate) -> list[str]:
    """Returns the DNS names and IP addresses of a node's certificate, without its server names."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dns = [name for name in names.get_values_for_type(x509.DNSName) if not _is_server_name(name)]
    return [*dns, *map(str, names.get_values_for_type(x509.IPAddress))]


def server_name(role: str, host: str) -> str:
    """Returns the DNS name of `host`, a DNS name or IP address, as a server of that role."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        label = host.lower().rstrip(".")
    else:
        label = address.exploded.replace(":", "-")
    return f"{label}.{role}.{SERVER_SUFFIX}"


def _is_server_name(host: str) -> bool:
    return host.lower().rstrip(".").endswith(f".{SERVER_SUFFIX}")


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _HOST.fullmatch(host) is None or _is_server_name(host):
            raise
        return x509.DNSName(host)


def _name(organisation: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _dated(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, days: float
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - _CLOCK_SKEW,
        not_valid_after=now + dt.timedelta(days=days),
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
