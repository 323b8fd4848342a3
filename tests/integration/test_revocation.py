"""A revoked certificate counts no more, anywhere, from the moment at which the list is beside a node's keys."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from splitvlm.crypto.authority import revoke, rotate, show
from splitvlm.crypto.handshake import CloudHandshake, DeviceHandshake
from splitvlm.crypto.identity import Role, load_identity
from splitvlm.crypto.revocation import REVOKED_FILE
from splitvlm.errors import KeysError, SplitvlmError
from splitvlm.rpc.channels import open_channel
from tests.nodes import Keys, cloud_node, device
from tests.samples import PICTURE, tiny_model

QUESTION = "How many cells are infected?"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


async def test_a_revoked_device_is_shut_out_of_a_running_node_and_others_are_not(keys: Keys) -> None:
    model = tiny_model("scenes-like")
    good, lost = keys.identity("edge-1", Role.EDGE), keys.identity("edge-2", Role.EDGE)
    async with cloud_node(model, keys) as cloud:
        async with device(model, cloud, lost) as camera:
            assert (await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)).token_ids
        revoke(keys.folder, "edge-2")
        async with device(model, cloud, lost) as camera:
            with pytest.raises(SplitvlmError, match="revoked"):
                await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)
        async with device(model, cloud, good) as camera:
            assert (await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)).token_ids
        async with open_channel(cloud.address, good, Role.CLOUD) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("change", ["rotated", "folder gone"])
async def test_an_older_copy_of_a_device_s_keys_is_shut_out(keys: Keys, change: str) -> None:
    model = tiny_model("scenes-like")
    copy = keys.identity("edge-1", Role.EDGE)
    async with cloud_node(model, keys) as cloud, device(model, cloud, copy) as camera:
        if change == "rotated":
            copy = replace(copy, renewal=None)  # as on another machine, where nobody renews it
            rotate(keys.folder, "edge-1")
        else:
            shutil.rmtree(keys.folder / "edge-1")
        assert (await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)).token_ids
        revoke(keys.folder, "edge-1")
        async with device(model, cloud, copy) as camera:
            with pytest.raises(SplitvlmError, match="revoked"):
                await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)


def test_each_side_of_a_handshake_refuses_a_revoked_peer(keys: Keys) -> None:
    edge, cloud = keys.identity("edge-1", Role.EDGE), keys.identity("cloud-1", Role.CLOUD)
    revoke(keys.folder, "cloud-1")
    handshake = DeviceHandshake(edge, b"")
    reply, _ = CloudHandshake(cloud, b"").accept(handshake.hello())
    with pytest.raises(KeysError, match="revoked"):
        handshake.finish(reply)
    revoke(keys.folder, "edge-1")
    with pytest.raises(KeysError, match="revoked"):
        CloudHandshake(cloud, b"").accept(DeviceHandshake(edge, b"").hello())


def test_a_node_with_a_revoked_certificate_does_not_start_and_a_rotated_one_does(keys: Keys) -> None:
    before = keys.identity("edge-1", Role.EDGE)
    revoke(keys.folder, "edge-1")
    with pytest.raises(KeysError, match="has been revoked"):
        load_identity(keys.folder / "edge-1")
    after = load_identity(rotate(keys.folder, "edge-1"))
    assert (after.node, after.role) == (before.node, before.role)
    assert after.private_key_pem != before.private_key_pem
    names = {row.name: row.names for row in show(keys.folder)}
    assert "IP:127.0.0.1" in str(names["edge-1"]) or "127.0.0.1" in str(names["edge-1"])


def test_a_list_of_another_authority_is_refused_and_changes_nothing(keys: Keys, tmp_path: Path) -> None:
    edge, lost = keys.identity("edge-1", Role.EDGE), keys.identity("edge-2", Role.EDGE)
    revoke(keys.folder, "edge-2")
    other = Keys(tmp_path / "other")
    other.identity("edge-9", Role.EDGE)
    foreign = revoke(other.folder, "edge-9")
    assert edge.revoked is not None
    revoked = x509.load_pem_x509_certificate(lost.certificate_pem)
    assert revoked in edge.revoked
    shutil.copy(foreign, keys.folder / "edge-1" / REVOKED_FILE)
    assert revoked in edge.revoked, "what was revoked stays revoked"
    with pytest.raises(KeysError, match="not signed"):
        load_identity(keys.folder / "edge-1")
    (keys.folder / "edge-1" / REVOKED_FILE).write_text("nonsense")
    with pytest.raises(KeysError, match="no list"):
        load_identity(keys.folder / "edge-1")


def test_a_node_that_is_issued_later_gets_the_list(keys: Keys) -> None:
    keys.identity("edge-1", Role.EDGE)
    revoke(keys.folder, "edge-1")
    assert (keys.folder / REVOKED_FILE).read_bytes() == (
        keys.identity("edge-2", Role.EDGE) and (keys.folder / "edge-2" / REVOKED_FILE).read_bytes()
    )


def test_unknown_nodes_are_named(keys: Keys) -> None:
    for change in (revoke, rotate):
        with pytest.raises(KeysError, match="edge-7"):
            change(keys.folder, "edge-7")
