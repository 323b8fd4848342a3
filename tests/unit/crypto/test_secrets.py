"""No key is in a repr, and none in the log at any level, in any of the forms in which bytes are printed."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from splitvlm.crypto.authority import _opened, init_authority, issue, revoke, rotate
from splitvlm.crypto.handshake import CloudHandshake, DeviceHandshake
from splitvlm.crypto.identity import Identity, Role, load_identity
from splitvlm.crypto.sealing import Opener, Sealer
from splitvlm.crypto.session_keys import following
from splitvlm.rpc.revocation_interceptor import RevocationInterceptor
from splitvlm.rpc.servers import _Shown


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init_authority(tmp_path / "keys")
    return tmp_path / "keys"


def forms(secret: bytes) -> list[str]:
    """How a secret may be printed."""
    return [secret.hex(), secret.hex(" "), repr(secret)[2:-1], base64.b64encode(secret).decode().rstrip("=")]


def pem_lines(identity: Identity) -> list[str]:
    return [line for line in identity.private_key_pem.decode().splitlines() if not line.startswith("-----")]


def test_no_key_is_printed_or_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    edge, cloud = (load_identity(issue(folder, role, role)) for role in (Role.EDGE, Role.CLOUD))
    device, worker = DeviceHandshake(edge, b"context"), CloudHandshake(cloud, b"context")
    hello = device.hello()
    reply, keys = worker.accept(hello)
    assert device.finish(reply) == keys
    sealer, opener = Sealer.of_device(keys), Opener.of_cloud(keys)
    assert opener.open(sealer.seal(b"a question")) == b"a question"
    with _opened(folder) as authority:
        shown = [edge, edge.renewal, edge.revoked, device, worker, hello, reply, keys, keys.of_device, sealer, opener]
        shown += [following(keys.of_device), RevocationInterceptor(cloud), _Shown(cloud), authority]
        text = " ".join(f"{each!r} {each} {vars(each) if hasattr(each, '__dict__') else ''}" for each in shown)
    rotate(folder, "edge")
    assert edge.newest() is not edge
    revoke(folder, "edge")
    logged = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "keys renewed" in logged
    secrets = [*pem_lines(edge), *pem_lines(edge.newest()), *pem_lines(cloud)]
    for direction in (keys.of_device, keys.of_cloud):
        secrets += [form for secret in (direction.key, direction.iv) for form in forms(secret)]
    assert len(secrets) > 20
    for secret in secrets:
        assert secret not in text
        assert secret not in logged
