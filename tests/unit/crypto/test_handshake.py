"""The handshake: both sides get the same keys, and every attack on it is refused.

The mutations below act on a Hello (device to cloud) or a Reply (cloud to device) on its way.
"""

from __future__ import annotations

import datetime as dt
import hmac
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from splitvlm.crypto import exchange
from splitvlm.crypto.authority import init_authority, issue
from splitvlm.crypto.handshake import CloudHandshake, DeviceHandshake, Hello, Reply
from splitvlm.crypto.identity import Identity, Role, load_identity
from splitvlm.crypto.session_keys import derive
from splitvlm.errors import HandshakeRefused, KeysError, PermissionRefused, ProtocolError, SplitvlmError

CONTEXT = b"protocol 1, weights, processor, codec"
REFUSED = (HandshakeRefused, KeysError, PermissionRefused, ProtocolError)


@dataclass(frozen=True)
class Nodes:
    edge: Identity
    other_edge: Identity
    cloud: Identity
    app: Identity
    foreign_edge: Identity
    foreign_cloud: Identity


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Nodes:
    ours, theirs = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("theirs")
    for folder in (ours, theirs):
        init_authority(folder)

    def made(folder: Path, name: str, role: Role) -> Identity:
        return load_identity(issue(folder, name, role))

    return Nodes(
        made(ours, "edge-1", Role.EDGE),
        made(ours, "edge-2", Role.EDGE),
        made(ours, "cloud-1", Role.CLOUD),
        made(ours, "app-1", Role.APP),
        made(theirs, "edge-1", Role.EDGE),
        made(theirs, "cloud-1", Role.CLOUD),
    )


def test_both_sides_get_the_same_keys_and_each_session_its_own(nodes: Nodes) -> None:
    sessions = []
    for identities in ((nodes.edge, nodes.cloud), (nodes.edge, nodes.cloud), (None, None), (None, None)):
        device, cloud = DeviceHandshake(identities[0], CONTEXT), CloudHandshake(identities[1], CONTEXT)
        reply, of_cloud = cloud.accept(device.hello())
        assert device.finish(reply) == of_cloud
        sessions.append(of_cloud)
    assert len({keys.session_id for keys in sessions}) == 4
    every_key = [side.key for keys in sessions for side in (keys.of_device, keys.of_cloud)]
    assert len(set(every_key)) == 8


def test_no_key_is_in_a_repr(nodes: Nodes) -> None:
    device = DeviceHandshake(nodes.edge, CONTEXT)
    _, keys = CloudHandshake(nodes.cloud, CONTEXT).accept(device.hello())
    shown = repr(keys) + repr(device) + repr(device.hello())
    for secret in (keys.of_device.key, keys.of_device.iv, keys.of_cloud.key, keys.of_cloud.iv):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


def test_known_answer_of_the_key_schedule() -> None:
    """Pinned: salt = 32 bytes of 02, secret = 32 bytes of 01. Computed apart, by HMAC after RFC 5869 2.2 and 2.3."""
    keys = derive(bytes([1] * 32), bytes([2] * 32), bytes([3] * 32))
    okm = keys.of_device.key + keys.of_device.iv + keys.of_cloud.key + keys.of_cloud.iv + keys.session_id
    assert okm == _hkdf(bytes([1] * 32), bytes([2] * 32), b"splitvlm session keys 1", 104)
    assert okm.hex() == KNOWN_OKM


def test_a_handshake_is_finished_once(nodes: Nodes) -> None:
    device = DeviceHandshake(nodes.edge, CONTEXT)
    reply, _ = CloudHandshake(nodes.cloud, CONTEXT).accept(device.hello())
    device.finish(reply)
    with pytest.raises(ProtocolError, match="only once"):
        device.finish(reply)


def test_another_context_is_refused_by_both_sides(nodes: Nodes) -> None:
    with pytest.raises(HandshakeRefused, match="signature does not fit"):
        CloudHandshake(nodes.cloud, b"another codec").accept(DeviceHandshake(nodes.edge, CONTEXT).hello())
    device = DeviceHandshake(None, CONTEXT)  # unsigned: the keys differ
    reply, of_cloud = CloudHandshake(None, b"another codec").accept(device.hello())
    assert device.finish(reply).of_device != of_cloud.of_device


def test_an_unsigned_side_is_refused(nodes: Nodes) -> None:
    unsigned, signed = DeviceHandshake(None, CONTEXT).hello(), DeviceHandshake(nodes.edge, CONTEXT).hello()
    with pytest.raises(HandshakeRefused, match="no certificate"):
        CloudHandshake(nodes.cloud, CONTEXT).accept(unsigned)
    with pytest.raises(HandshakeRefused, match="plaintext"):
        CloudHandshake(None, CONTEXT).accept(signed)


def test_a_stripped_signature_is_refused(nodes: Nodes) -> None:
    hello = DeviceHandshake(nodes.edge, CONTEXT).hello()
    cloud = CloudHandshake(nodes.cloud, CONTEXT)
    for stripped in (Hello(hello.ephemeral_public), replace(hello, signature=b""), replace(hello, certificate_der=b"")):
        with pytest.raises(REFUSED):
            cloud.accept(stripped)
    device = DeviceHandshake(nodes.edge, CONTEXT)
    reply, _ = cloud.accept(device.hello())
    with pytest.raises(HandshakeRefused, match="no certificate"):
        device.finish(Reply(reply.ephemeral_public))


def test_the_wrong_role_is_refused(nodes: Nodes) -> None:
    as_edge = replace(nodes.app, role=Role.EDGE)  # its code lies; its certificate does not
    with pytest.raises(PermissionRefused, match="role app, where edge is wanted"):
        CloudHandshake(nodes.cloud, CONTEXT).accept(DeviceHandshake(as_edge, CONTEXT).hello())
    device = DeviceHandshake(nodes.edge, CONTEXT)
    reply, _ = CloudHandshake(replace(nodes.other_edge, role=Role.CLOUD), CONTEXT).accept(device.hello())
    with pytest.raises(PermissionRefused, match="role edge, where cloud is wanted"):
        device.finish(reply)


def test_a_node_of_another_role_does_not_start(nodes: Nodes) -> None:
    with pytest.raises(KeysError, match="role app"):
        DeviceHandshake(nodes.app, CONTEXT)
    with pytest.raises(KeysError, match="role edge"):
        CloudHandshake(nodes.edge, CONTEXT)


def test_another_authority_is_refused(nodes: Nodes) -> None:
    with pytest.raises(KeysError, match="not one of our authority's"):
        CloudHandshake(nodes.cloud, CONTEXT).accept(DeviceHandshake(nodes.foreign_edge, CONTEXT).hello())
    device = DeviceHandshake(replace(nodes.edge, authority_pem=nodes.foreign_edge.authority_pem, renewal=None), CONTEXT)
    reply, _ = CloudHandshake(nodes.cloud, CONTEXT).accept(device.hello())
    with pytest.raises(KeysError, match="not one of our authority's"):
        device.finish(reply)


@pytest.mark.parametrize(("days", "sentence"), [(31, "edge-1 expired 24 hours ago"), (-1, "not valid now")])
def test_a_certificate_outside_of_its_time_is_refused(nodes: Nodes, days: float, sentence: str) -> None:
    clock_now = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    cloud = CloudHandshake(nodes.cloud, CONTEXT, clock=lambda: clock_now)
    with pytest.raises(KeysError, match=sentence):
        cloud.accept(DeviceHandshake(nodes.edge, CONTEXT).hello())


def test_another_nodes_certificate_is_refused(nodes: Nodes) -> None:
    hello, other = DeviceHandshake(nodes.edge, CONTEXT).hello(), DeviceHandshake(nodes.other_edge, CONTEXT).hello()
    with pytest.raises(HandshakeRefused, match="signature does not fit"):
        CloudHandshake(nodes.cloud, CONTEXT).accept(replace(hello, certificate_der=other.certificate_der))


def test_a_reply_to_another_hello_is_refused(nodes: Nodes) -> None:
    """Splice: a recorded reply of the right cloud node, for another session."""
    cloud, device = CloudHandshake(nodes.cloud, CONTEXT), DeviceHandshake(nodes.edge, CONTEXT)
    recorded, _ = cloud.accept(DeviceHandshake(nodes.edge, CONTEXT).hello())
    with pytest.raises(HandshakeRefused, match="signature does not fit"):
        device.finish(recorded)


def test_a_reflected_hello_is_refused(nodes: Nodes) -> None:
    device = DeviceHandshake(nodes.edge, CONTEXT)
    hello = device.hello()
    with pytest.raises(PermissionRefused):
        device.finish(Reply(hello.ephemeral_public, hello.certificate_der, hello.signature))


def test_a_replayed_hello_gives_its_sender_nothing(nodes: Nodes) -> None:
    cloud, device = CloudHandshake(nodes.cloud, CONTEXT), DeviceHandshake(nodes.edge, CONTEXT)
    reply, first = cloud.accept(device.hello())
    _, second = cloud.accept(device.hello())
    assert device.finish(reply) == first
    assert first.of_device != second.of_device


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(32), bytes([1]) + bytes(31), bytes(33)])
def test_an_ephemeral_key_that_is_none_is_refused(public: bytes) -> None:
    """Among them points of small order, which give the shared secret zero (RFC 7748 6.1)."""
    with pytest.raises(ProtocolError, match="ephemeral key"):
        CloudHandshake(None, CONTEXT).accept(Hello(public))


def test_an_exchanged_ephemeral_key_is_refused(nodes: Nodes) -> None:
    mine = X25519PrivateKey.generate().public_key().public_bytes_raw()
    device, cloud = DeviceHandshake(nodes.edge, CONTEXT), CloudHandshake(nodes.cloud, CONTEXT)
    with pytest.raises(HandshakeRefused):
        cloud.accept(replace(device.hello(), ephemeral_public=mine))
    reply, _ = cloud.accept(device.hello())
    with pytest.raises(HandshakeRefused):
        device.finish(replace(reply, ephemeral_public=mine))


@pytest.mark.parametrize("device_can", [True, False])
@pytest.mark.parametrize("cloud_can", [True, False])
def test_both_halves_are_in_the_secret_where_both_can(device_can: bool, cloud_can: bool) -> None:
    device = exchange.DeviceKeys(hybrid=device_can)
    public, secret = exchange.answer(device.public, hybrid=cloud_can)
    assert device.shared(public) == secret
    assert len(secret) == (64 if device_can and cloud_can else 32)
    assert exchange.answer(device.public, hybrid=cloud_can)[1] != secret


def test_the_post_quantum_half_cannot_be_taken_off(nodes: Nodes) -> None:
    device, cloud = DeviceHandshake(nodes.edge, CONTEXT), CloudHandshake(nodes.cloud, CONTEXT)
    hello = device.hello()
    assert len(hello.ephemeral_public) == exchange.X25519_BYTES + exchange.ENCAPSULATION_BYTES
    with pytest.raises(HandshakeRefused, match="signature does not fit"):
        cloud.accept(replace(hello, ephemeral_public=hello.ephemeral_public[: exchange.X25519_BYTES]))
    reply, _ = cloud.accept(hello)
    with pytest.raises(HandshakeRefused, match="signature does not fit"):
        device.finish(replace(reply, ephemeral_public=reply.ephemeral_public[: exchange.X25519_BYTES]))


@pytest.mark.parametrize("classical", ["device", "cloud"])
def test_a_peer_without_the_post_quantum_half_is_refused_unless_it_is_allowed(
    nodes: Nodes, classical: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides of a session: its own library decides what each offers."""

    def session(edge: Identity, cloud: Identity) -> tuple[bytes, bytes]:
        monkeypatch.setattr(exchange, "has_mlkem", lambda: classical != "device")
        device = DeviceHandshake(edge, CONTEXT)
        monkeypatch.setattr(exchange, "has_mlkem", lambda: classical != "cloud")
        reply, keys = CloudHandshake(cloud, CONTEXT).accept(device.hello())
        return keys.session_id, device.finish(reply).session_id

    with pytest.raises(HandshakeRefused, match=r"without ML-KEM-768.*require_post_quantum"):
        session(nodes.edge, nodes.cloud)
    lenient = [replace(each, require_post_quantum=False, renewal=None) for each in (nodes.edge, nodes.cloud)]
    ours, theirs = session(*lenient)
    assert ours == theirs


@pytest.mark.parametrize("length", [1, 1088, 1183, 1185])
def test_a_post_quantum_half_of_another_length_is_refused(length: int) -> None:
    device = exchange.DeviceKeys()
    for extra in (bytes(length), b"\xff" * length):
        with pytest.raises(ProtocolError, match="ephemeral key"):
            exchange.answer(device.public[: exchange.X25519_BYTES] + extra)
    with pytest.raises(ProtocolError, match="ephemeral key"):
        exchange.answer(device.public[: exchange.X25519_BYTES] + b"\xff" * exchange.ENCAPSULATION_BYTES)
    cut = exchange.answer(device.public)[0][:-length] if length < 1088 else b""
    for public in (cut, exchange.answer(device.public)[0] + b"x"):
        with pytest.raises(ProtocolError, match="ephemeral key"):
            device.shared(public)


FIELDS = ("ephemeral_public", "certificate_der", "signature")


@given(st.sampled_from(FIELDS), st.booleans(), st.integers(0, 1 << 20), st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_anywhere_is_refused(nodes: Nodes, field: str, on_reply: bool, place: int, flip: int) -> None:
    device, cloud = DeviceHandshake(nodes.edge, CONTEXT), CloudHandshake(nodes.cloud, CONTEXT)
    hello = device.hello()
    reply, _ = cloud.accept(hello)
    changed = bytearray(getattr(reply if on_reply else hello, field))
    changed[place % len(changed)] ^= flip
    with pytest.raises(REFUSED):  # noqa: PT012
        if on_reply:
            device.finish(replace(reply, **{field: bytes(changed)}))
        else:
            cloud.accept(replace(hello, **{field: bytes(changed)}))


@given(st.binary(max_size=64), st.binary(max_size=300), st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_noise_raises_our_errors_only(nodes: Nodes, public: bytes, certificate: bytes, signature: bytes) -> None:
    with pytest.raises(SplitvlmError):
        CloudHandshake(nodes.cloud, CONTEXT).accept(Hello(public, certificate, signature))


def test_a_certificate_of_any_length_is_refused_unread(nodes: Nodes) -> None:
    with pytest.raises(KeysError, match="too long"):
        CloudHandshake(nodes.cloud, CONTEXT).accept(Hello(bytes(32), bytes(1 << 20), b"x"))


def _hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, written out with the standard library alone."""
    extracted = hmac.digest(salt, secret, "sha256")
    okm, last = b"", b""
    while len(okm) < length:
        last = hmac.digest(extracted, last + info + bytes([len(okm) // 32 + 1]), "sha256")
        okm += last
    return okm[:length]


KNOWN_OKM = (
    "bbb9d4aa8a93ee9daf90310fae823e459c7056c1ac546b398ecfe55ba8c0f754af62af2dfa1cf850248c91d2"
    "e85eaf5787cabbaa16968132b19833aed3eb0ed40ee452e6419c928be03db61f5b084c07c8f67092874d2913"
    "0fcc78ac593bffd846a2010db8aedc14"
)
