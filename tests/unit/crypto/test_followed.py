"""A file that could not be read once is tried again: what it holds counts from the next look on, and never less than before."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from splitvlm.crypto.authority import init_authority, issue, revoke, rotate
from splitvlm.crypto.followed import stamp_of
from splitvlm.crypto.identity import Role, load_identity
from splitvlm.errors import KeysError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init_authority(tmp_path / "keys")
    return tmp_path / "keys"


@contextmanager
def unreadable(name: str) -> Iterator[None]:
    """Reading files of that name fails, and no file changes: descriptors ran out, or a right is missing."""
    with pytest.MonkeyPatch.context() as patch:
        really = Path.read_bytes

        def refuse(path: Path) -> bytes:
            if path.name == name:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
            return really(path)

        patch.setattr(Path, "read_bytes", refuse)
        yield


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())


@pytest.mark.parametrize("name", ["key.pem", "cert.pem", "ca.pem", "revoked.pem"])
def test_renewed_keys_that_could_not_be_read_count_once_they_can(folder: Path, name: str) -> None:
    identity = load_identity(issue(folder, "edge-1", Role.EDGE))
    issue(folder, "edge-2", Role.EDGE)
    revoke(folder, "edge-2")
    rotate(folder, "edge-1")
    with unreadable(name):
        assert identity.newest() is identity
    assert identity.newest().certificate_pem == (folder / "edge-1/cert.pem").read_bytes()


def test_a_renewed_key_that_others_may_read_counts_after_chmod(folder: Path) -> None:
    identity = load_identity(issue(folder, "edge-1", Role.EDGE))
    rotate(folder, "edge-1")
    (folder / "edge-1/key.pem").chmod(0o644)
    assert identity.newest() is identity
    (folder / "edge-1/key.pem").chmod(0o600)
    assert identity.newest().certificate_pem == (folder / "edge-1/cert.pem").read_bytes()


def test_a_list_that_could_not_be_read_counts_once_it_can(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    identity, lost = load_identity(issue(folder, "edge-1", Role.EDGE)), certificate(issue(folder, "edge-2", Role.EDGE))
    assert identity.revoked is not None
    assert lost not in identity.revoked
    revoke(folder, "edge-2")
    with unreadable("revoked.pem"):
        for _ in range(5):
            assert lost not in identity.revoked
    assert caplog.text.count("Cannot read") == 1, "it is said once"
    assert lost in identity.revoked


def test_what_was_revoked_stays_so_where_the_list_is_gone_or_older(folder: Path) -> None:
    identity = load_identity(issue(folder, "edge-1", Role.EDGE))
    lost = [certificate(issue(folder, name, Role.EDGE)) for name in ("edge-2", "edge-3")]
    assert identity.revoked is not None
    revoke(folder, "edge-2")
    shutil.copy(folder / "revoked.pem", folder / "older.pem")
    revoke(folder, "edge-3")
    assert all(each in identity.revoked for each in lost)
    (folder / "edge-1/revoked.pem").unlink()
    assert all(each in identity.revoked for each in lost)
    shutil.copy(folder / "older.pem", folder / "edge-1/revoked.pem")
    assert all(each in identity.revoked for each in lost)


def test_a_node_does_not_start_with_a_list_that_it_cannot_read(folder: Path) -> None:
    made = issue(folder, "edge-1", Role.EDGE)
    revoke(folder, "edge-1")
    rotate(folder, "edge-1")
    with unreadable("revoked.pem"), pytest.raises(KeysError, match="Cannot read"):
        load_identity(made)


def test_a_file_changes_with_its_contents_its_rights_and_its_place(tmp_path: Path) -> None:
    """Also within one tick of the clock, at the same length."""
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("one")
    times = path.stat()
    before = stamp_of(path)
    assert stamp_of(path) == before != ()
    other.write_text("two")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)
    replaced = stamp_of(path)
    assert replaced != before
    path.chmod(0o640)
    assert stamp_of(path) != replaced
    path.unlink()
    assert stamp_of(path) == ()
