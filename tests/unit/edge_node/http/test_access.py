"""Who may reach the HTTP port, and which images an application may name."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import trustme

from edge_node.local.http.access import access_of
from edge_node.local.http.images import ImageFiles
from edge_node.settings import EdgeSettings, Http
from splitvlm.errors import ConfigError, KeysError, UsageError
from tests.http_node import http_node, user

TOKEN = "a-token-of-more-than-16-characters"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def test_loopback_needs_nothing_and_no_address_serves_nothing() -> None:
    assert access_of(EdgeSettings()) is None
    access = access_of(EdgeSettings(http=Http(listen="127.0.0.1:8000")))
    assert access is not None
    assert (access.token, access.certificate) == (None, None)


def test_elsewhere_it_needs_a_token_and_tls(token_file: Path) -> None:
    for listen in ("0.0.0.0:8000", "[::]:8000", "device.local:8000"):
        with pytest.raises(ConfigError, match=r"http\.token_file is missing"):
            access_of(EdgeSettings(http=Http(listen=listen)))
        with pytest.raises(ConfigError, match=r"http\.certificate is missing"):
            access_of(EdgeSettings(http=Http(listen=listen, token_file=token_file)))
    keys = {"security": {"keys": "keys/edge-1"}}
    access = access_of(
        EdgeSettings.model_validate(keys | {"http": {"listen": "0.0.0.0:1", "token_file": str(token_file)}})
    )
    assert access is not None
    assert (access.token, access.certificate) == (TOKEN, Path("keys/edge-1/cert.pem"))
    assert TOKEN not in repr(access)


@pytest.mark.parametrize("written", ["short", "", "has a space in its middle", "ünïcödé-tokens-are-no-header"])
def test_a_token_is_long_and_fits_a_header(tmp_path: Path, written: str) -> None:
    path = tmp_path / "token"
    path.write_text(written)
    with pytest.raises(ConfigError, match="holds no token of at least 16 characters"):
        access_of(EdgeSettings(http=Http(listen="127.0.0.1:8000", token_file=path)))


async def test_with_a_token_nobody_gets_in_without_it() -> None:
    async with http_node(token=TOKEN) as node:
        for given in (None, "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"):
            headers = {"authorization": given} if given else {}
            for response in (
                await node.post(user("x"), headers=headers),
                await node.http.get(f"{node.url}/models", headers=headers),
            ):
                assert response.status_code == 401
                assert response.json()["error"]["code"] == "invalid_api_key"
        assert (await node.post(user("x"), headers={"authorization": f"Bearer {TOKEN}"})).status_code == 200


async def test_without_a_token_the_host_must_be_this_machine() -> None:
    async with http_node() as node:
        for host, status in (
            ("localhost:8000", 200),
            ("127.0.0.1", 200),
            ("[::1]:8000", 200),
            ("evil.example", 403),
            ("127.0.0.1.evil.example:80", 403),
            ("", 403),
        ):
            assert (await node.post(user("x"), headers={"host": host})).status_code == status, host


def test_files_are_read_in_the_folders_that_are_allowed_and_nowhere_else(tmp_path: Path) -> None:
    allowed, other = tmp_path / "camera", tmp_path / "camera-secrets"
    allowed.mkdir()
    other.mkdir()
    (allowed / "a picture.jpg").write_bytes(b"picture")
    (other / "key").write_bytes(b"secret")
    (allowed / "link.jpg").symlink_to(other / "key")
    files = ImageFiles(Http(image_folders=[allowed]))
    assert files.get(f"file://{allowed}/a%20picture.jpg") == b"picture"
    for path in (other / "key", allowed / "link.jpg", f"{allowed}/../camera-secrets/key", f"{allowed}/%2e%2e/x"):
        with pytest.raises(UsageError, match="folder is not allowed"):
            files.get(f"file://{path}")
    for path in (allowed, allowed / "none.jpg", f"{allowed}/a%00"):
        with pytest.raises(UsageError, match=r"is no file|cannot be read"):
            files.get(f"file://{path}")
    with pytest.raises(UsageError, match="folder is not allowed"):
        files.get(f"file://host{allowed}/a.jpg")


class _Camera(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/secret")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"snapshot" if self.path == "/snap.jpg?q=1" else b"x" * 100)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def camera() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Camera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_hosts_are_asked_where_they_are_allowed_and_lead_nowhere_else(
    camera: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ImageFiles(Http(fetch_hosts=["127.0.0.1"]))
    assert files.get(f"{camera}/snap.jpg?q=1") == b"snapshot"
    with pytest.raises(UsageError, match="the host answers 302"):
        files.get(f"{camera}/moved")
    with pytest.raises(UsageError, match="host is not allowed"):
        files.get(camera.replace("127.0.0.1", "localhost"))
    monkeypatch.setattr("edge_node.local.http.images.MAX_IMAGE_BYTES", 50)
    with pytest.raises(UsageError, match="is larger than 50 bytes"):
        files.get(f"{camera}/large")
    with pytest.raises(UsageError, match="cannot be fetched"):
        files.get("http://127.0.0.1:1/x")


async def test_with_a_certificate_it_speaks_tls_alone(tmp_path: Path) -> None:
    authority, file = trustme.CA(), tmp_path / "certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(file)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with http_node(token=TOKEN, certificate=file) as node, httpx2.AsyncClient(verify=context) as client:
        assert node.url.startswith("https://")
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert (await client.get(f"{node.url}/models", headers=headers)).status_code == 200
        with pytest.raises(httpx2.HTTPError):
            await client.get(f"{node.url}/models".replace("https", "http"), headers=headers)


async def test_a_certificate_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("none")
    with pytest.raises(KeysError, match="Cannot use the certificate"):
        async with http_node(certificate=tmp_path / "none.pem"):
            pass
