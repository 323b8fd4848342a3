"""`splitvlm keys`, and what a node makes of its folder: right certificates, and a sentence for everything that is wrong."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from splitvlm.crypto.authority import init_authority, issue, revoke, rotate, show
from splitvlm.crypto.identity import Role, load_identity, peer_identity
from splitvlm.crypto.lifetime import utc_now
from splitvlm.errors import ConfigError, KeysError
from splitvlm.node.lifecycle import identity_of
from splitvlm.settings import Security


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "authority"
    init_authority(folder, domain="clinic.example")
    return folder


@pytest.fixture
def node(tmp_path: Path) -> Path:
    init_authority(tmp_path)
    return issue(tmp_path, "edge-1", Role.EDGE)


@pytest.mark.parametrize("role", list(Role))
def test_an_issued_folder_loads(authority: Path, role: Role) -> None:
    identity = load_identity(issue(authority, f"a-{role}", role))
    assert (identity.node, identity.role) == (f"a-{role}", role)
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    assert peer_identity(identity.certificate_pem) == peer_identity(_der(certificate)) == (identity.node, role)


def test_a_node_certificate_says_what_tls_wants(authority: Path) -> None:
    folder = issue(authority, "worker", Role.CLOUD, hosts=("cloud.example", "10.1.2.3", "::1"))
    certificate = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["splitvlm://clinic.example/cloud/worker"]
    assert names.get_values_for_type(x509.DNSName) == [
        "worker",
        "cloud.example",
        "worker.cloud.splitvlm.internal",
        "cloud.example.cloud.splitvlm.internal",
        "10.1.2.3.cloud.splitvlm.internal",
        "0000-0000-0000-0000-0000-0000-0000-0001.cloud.splitvlm.internal",
    ]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3", "::1"]
    usages = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert usages == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_openssl_shakes_hands_with_both_certificates(authority: Path) -> None:
    """Mutual TLS 1.3 in memory, with the server's name checked."""
    server, client = (
        _context(issue(authority, "s", Role.CLOUD), server=True),
        _context(issue(authority, "c", Role.EDGE)),
    )
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    for side in (client_side, server_side, client_side, server_side):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert peer_identity(server_side.getpeercert(binary_form=True) or b"") == ("c", Role.EDGE)
    assert peer_identity(client_side.getpeercert(binary_form=True) or b"") == ("s", Role.CLOUD)


def test_private_files_are_private(node: Path) -> None:
    assert (node / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (node.parent / "ca.key").stat().st_mode & 0o777 == 0o600


def test_no_secret_is_in_a_repr(node: Path) -> None:
    shown = repr(load_identity(node))
    assert "PRIVATE" not in shown
    assert "BEGIN" not in shown


def test_show_lists_the_authority_and_its_nodes(node: Path) -> None:
    issue(node.parent, "cloud-1", Role.CLOUD, hosts=("cloud.example",), days=7)
    rows = show(node.parent)
    assert [(row.name, row.role) for row in rows] == [
        ("splitvlm", "authority"),
        ("cloud-1", "cloud"),
        ("edge-1", "edge"),
    ]
    assert "cloud.example" in rows[1].names
    left = rows[1].not_after - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=6.9) < left < dt.timedelta(days=7)
    assert len({row.serial for row in rows}) == 3


def test_show_says_what_expires_what_is_revoked_and_what_is_elsewhere(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = node.parent
    for name in ("edge-2", "edge-3"):
        issue(authority, name, Role.EDGE)
    rotate(authority, "edge-3", days=800)
    revoke(authority, "edge-2")
    shutil.rmtree(node)
    elsewhere = "its file is not here; it counts still"

    def notes(days: float) -> list[tuple[str, str]]:
        now = utc_now() + dt.timedelta(days=days)
        monkeypatch.setattr("splitvlm.crypto.authority.utc_now", lambda: now)
        return [(row.name, row.note.partition(" (")[0]) for row in show(authority)]

    fresh = [("splitvlm", ""), ("edge-1", elsewhere), ("edge-2", "revoked"), ("edge-3", elsewhere), ("edge-3", "")]
    assert notes(0.0) == fresh
    issue(authority, "edge-1", Role.EDGE)
    assert ("edge-1", "expires in 9 days") in notes(20.5)
    assert ("edge-1", "expired 2 days ago") in notes(32.5)
    assert ("edge-1", elsewhere) not in notes(32.5), "it has expired"
    assert not any("splitvlm.internal" in name for row in show(authority) for name in row.names)


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    init_authority(tmp_path, days=2)
    issue(tmp_path, "edge-1", Role.EDGE, days=30)
    authority, edge = show(tmp_path)
    assert edge.not_after <= authority.not_after


def test_nothing_is_overwritten(node: Path) -> None:
    before = {path: path.read_bytes() for path in node.parent.rglob("*") if path.is_file()}
    with pytest.raises(KeysError, match="not overwritten"):
        init_authority(node.parent)
    with pytest.raises(KeysError, match="choose another name"):
        issue(node.parent, "edge-1", Role.EDGE)
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("name", ["", "Edge", "a/b", "..", "-a", "a" * 64, "ca.pem", "a\n"])
def test_what_cannot_name_a_node_is_refused(authority: Path, name: str) -> None:
    with pytest.raises(KeysError, match="cannot name a node"):
        issue(authority, name, Role.EDGE)


def test_an_application_serves_nobody_and_has_no_server_name(authority: Path) -> None:
    folder = issue(authority, "viewer", Role.APP)
    assert b"splitvlm.internal" not in ssl.PEM_cert_to_DER_cert((folder / "cert.pem").read_text())


@pytest.mark.parametrize(
    "host", ["", "a b", "a/b", "ü.example", "x.cloud.splitvlm.internal", "*.edge.SPLITVLM.internal", "a" * 230]
)
def test_what_is_no_host_is_refused(authority: Path, host: str) -> None:
    with pytest.raises(KeysError, match="no DNS name or IP address"):
        issue(authority, "x", Role.EDGE, hosts=(host,))


def test_issuing_needs_an_authority(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="keys init"):
        issue(tmp_path, "edge-1", Role.EDGE)
    with pytest.raises(KeysError, match="keys init"):
        show(tmp_path)


@pytest.mark.parametrize("file", ["cert.pem", "key.pem", "ca.pem"])
def test_a_missing_or_broken_file_is_named(node: Path, file: str) -> None:
    (node / file).write_bytes(b"-----BEGIN NOTHING-----\n")
    with pytest.raises(KeysError, match=r"certificate in PEM|private key cannot be read"):
        load_identity(node)
    (node / file).unlink()
    with pytest.raises(KeysError, match=file):
        load_identity(node)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o444, 0o660, 0o620, 0o777])
def test_a_key_that_others_may_read_or_change_is_refused(node: Path, mode: int) -> None:
    (node / "key.pem").chmod(mode)
    with pytest.raises(KeysError, match=r"Others .*key\.pem.*chmod 600"):
        load_identity(node)
    (node.parent / "ca.key").chmod(mode)
    with pytest.raises(KeysError, match=r"Others .*ca\.key.*chmod 600"):
        issue(node.parent, "edge-2", Role.EDGE)


@pytest.mark.parametrize("mode", [0o440, 0o640])
def test_a_key_that_a_group_of_this_process_may_read_is_taken(
    node: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes mounts secrets: root's, for the pod's `fsGroup`."""
    (node / "key.pem").chmod(mode)
    group = (node / "key.pem").stat().st_gid
    monkeypatch.setattr(os, "getegid", lambda: group + 1)
    monkeypatch.setattr(os, "getgroups", lambda: [group + 2, group])
    assert load_identity(node).node == "edge-1"
    monkeypatch.setattr(os, "getgroups", lambda: [group + 2])
    with pytest.raises(KeysError, match=f"the group {group}, to which this process does not belong"):
        load_identity(node)


@pytest.mark.parametrize("required", [True, False])
def test_what_a_node_demands_of_its_peers_outlives_its_keys(node: Path, required: bool) -> None:
    identity = identity_of(Security(keys=node, require_post_quantum=required))
    assert identity is not None
    assert identity.require_post_quantum is required
    rotate(node.parent, "edge-1")
    assert identity.newest() is not identity
    assert identity.newest().require_post_quantum is required


def test_a_library_without_ml_kem_is_named_at_the_start(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitvlm.node.lifecycle.has_mlkem", lambda: False)
    assert Security(keys=node).require_post_quantum, "unless it is said otherwise"
    with pytest.raises(ConfigError, match="has no ML-KEM-768"):
        identity_of(Security(keys=node))
    assert identity_of(Security(keys=node, require_post_quantum=False)) is not None


def test_a_key_of_another_certificate_is_refused(node: Path) -> None:
    other = issue(node.parent, "edge-2", Role.EDGE)
    (node / "key.pem").write_bytes((other / "key.pem").read_bytes())
    with pytest.raises(KeysError, match="not that of the certificate"):
        load_identity(node)


def test_another_authority_is_refused(node: Path, authority: Path) -> None:
    (node / "ca.pem").write_bytes((authority / "ca.pem").read_bytes())
    with pytest.raises(KeysError, match="not issued by"):
        load_identity(node)


@pytest.mark.parametrize(("days", "sentence"), [(31, "expired"), (-1, "valid only from")])
def test_the_time_of_a_certificate_is_checked(node: Path, days: float, sentence: str) -> None:
    now = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    with pytest.raises(KeysError, match=sentence):
        load_identity(node, now=now)


@pytest.mark.parametrize("certificate", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\n"])
def test_what_is_no_certificate_names_nobody(certificate: bytes) -> None:
    with pytest.raises(KeysError):
        peer_identity(certificate)


def test_an_authority_is_no_node(node: Path) -> None:
    with pytest.raises(KeysError, match="names no node"):
        peer_identity(load_identity(node).authority_pem)


def _context(folder: Path, *, server: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
