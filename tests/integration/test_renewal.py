"""A certificate that is renewed in a running node's folder counts from the next connection on; what is half copied does not."""

from __future__ import annotations

import shutil
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from splitvlm.crypto.authority import issue, revoke, rotate
from splitvlm.crypto.identity import CERTIFICATE_FILE, KEY_FILE, Role, load_identity
from splitvlm.errors import SplitvlmError
from splitvlm.rpc.control_client import ControlClient
from tests.nodes import Keys, cloud_node, device
from tests.samples import PICTURE, tiny_model

QUESTION = "How many cells are infected?"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


def serial_in(folder: Path) -> int:
    return x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes()).serial_number


def serial_shown(address: str, folder: Path) -> int:
    """The serial number of the certificate that a server shows to a node with these keys."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / CERTIFICATE_FILE, folder / KEY_FILE)
    context.set_alpn_protocols(["h2"])
    host, port = address.split(":")
    with (
        socket.create_connection((host, int(port)), 5) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


async def test_a_running_server_shows_the_renewed_certificate(keys: Keys) -> None:
    keys.identity("edge-1", Role.EDGE)
    async with cloud_node(tiny_model("scenes-like"), keys) as cloud:
        caller, folder = keys.folder / "edge-1", keys.folder / "cloud-1"
        before = serial_in(folder)
        assert serial_shown(cloud.address, caller) == before
        rotate(keys.folder, "cloud-1")
        assert serial_in(folder) != before
        assert serial_shown(cloud.address, caller) == serial_in(folder)


@pytest.mark.parametrize("renewed", ["edge-1", "cloud-1"])
async def test_a_running_node_goes_on_with_its_renewed_keys_where_the_old_ones_count_no_more(
    keys: Keys, renewed: str
) -> None:
    model = tiny_model("scenes-like")
    async with cloud_node(model, keys) as cloud, device(model, cloud, keys.identity("edge-1", Role.EDGE)) as camera:
        first = await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)
        revoke(keys.folder, renewed)
        await forget_sessions(camera.link)
        with pytest.raises(SplitvlmError, match="revoked"):
            await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)
        rotate(keys.folder, renewed)
        again = await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)
        assert again.token_ids == first.token_ids


async def forget_sessions(link: object) -> None:
    """Sessions that are open stay open: a new one shows what a new handshake says."""
    idle = link.sessions.idle  # type: ignore[attr-defined]
    while idle:
        await idle.pop().close()


def test_keys_that_are_half_copied_do_not_count_yet(keys: Keys, tmp_path: Path) -> None:
    identity = keys.identity("edge-1", Role.EDGE)
    assert identity.newest() is identity
    shutil.copytree(keys.folder, tmp_path / "other")
    fresh = rotate(tmp_path / "other", "edge-1")
    shutil.copy2(fresh / KEY_FILE, keys.folder / "edge-1" / KEY_FILE)
    assert identity.newest() is identity
    shutil.copy2(fresh / CERTIFICATE_FILE, keys.folder / "edge-1" / CERTIFICATE_FILE)
    newest = identity.newest()
    assert newest.certificate_pem == (fresh / CERTIFICATE_FILE).read_bytes()
    assert newest.newest() is newest
    assert identity.newest() is newest


def test_keys_of_another_node_are_not_taken(keys: Keys) -> None:
    identity = keys.identity("edge-1", Role.EDGE)
    other = issue(keys.folder, "edge-2", Role.EDGE)
    for name in (KEY_FILE, CERTIFICATE_FILE):
        shutil.copy2(other / name, keys.folder / "edge-1" / name)
    assert load_identity(keys.folder / "edge-1").node == "edge-2"
    assert identity.newest() is identity


async def test_the_control_plane_s_client_dials_with_the_renewed_keys(keys: Keys) -> None:
    client = ControlClient("127.0.0.1:1", keys.identity("edge-1", Role.EDGE))
    try:
        before = client._channels[-1]
        assert client.stub is not None
        assert client._channels == [before]
        rotate(keys.folder, "edge-1")
        assert client.stub is not None
        assert client._channels[0] is before
        assert len(client._channels) == 2
    finally:
        await client.close()
