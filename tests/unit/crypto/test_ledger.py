"""The authority's ledger: whatever was ever issued to a node can be revoked, wherever its file is."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from splitvlm.crypto.authority import init_authority, issue, revoke, rotate
from splitvlm.crypto.identity import Role
from splitvlm.crypto.ledger import LEDGER_FILE, read_ledger
from splitvlm.crypto.revocation import serials_in
from splitvlm.errors import KeysError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init_authority(tmp_path / "keys")
    return tmp_path / "keys"


def serial(made: Path) -> int:
    return x509.load_pem_x509_certificate((made / "cert.pem").read_bytes()).serial_number


def revoked(folder: Path) -> frozenset[int]:
    return serials_in(folder / "revoked.pem", (folder / "ca.pem").read_bytes())


def test_every_certificate_of_a_node_is_revoked_and_nobody_else_s(folder: Path) -> None:
    other = serial(issue(folder, "edge-2", Role.EDGE))
    issued = {serial(issue(folder, "edge-1", Role.EDGE))}
    issued |= {serial(rotate(folder, "edge-1")) for _ in range(2)}
    shutil.rmtree(folder / "edge-1")
    issued.add(serial(issue(folder, "edge-1", Role.APP)))
    assert len(issued) == 4
    revoke(folder, "edge-1")
    assert revoked(folder) == revoked(folder / "edge-2") == issued
    again = serial(rotate(folder, "edge-1"))
    revoke(folder, "edge-2")
    assert revoked(folder) == issued | {other}
    assert again not in revoked(folder)


def test_a_node_whose_folder_is_gone_is_revoked(folder: Path) -> None:
    issued = serial(issue(folder, "edge-1", Role.EDGE))
    shutil.rmtree(folder / "edge-1")
    revoke(folder, "edge-1")
    assert revoked(folder) == {issued}


@pytest.mark.parametrize("change", [revoke, rotate])
def test_an_authority_that_is_older_than_its_ledger_gets_one_from_what_is_found(
    folder: Path, change: Callable[[Path, str], Path]
) -> None:
    first, second = (serial(issue(folder, name, Role.EDGE)) for name in ("edge-1", "edge-2"))
    (folder / LEDGER_FILE).unlink()
    change(folder, "edge-1")
    assert {first, second} <= set(read_ledger(folder))
    revoke(folder, "edge-1")
    assert first in revoked(folder)
    assert second not in revoked(folder)


def test_a_folder_of_another_authority_is_not_ours(folder: Path, tmp_path: Path) -> None:
    init_authority(tmp_path / "other")
    shutil.copytree(issue(tmp_path / "other", "edge-1", Role.EDGE), folder / "edge-1")
    with pytest.raises(KeysError, match="no certificate of 'edge-1'"):
        revoke(folder, "edge-1")


def test_the_ledger_is_private_and_says_what_was_issued(folder: Path) -> None:
    made = issue(folder, "cloud-1", Role.CLOUD, days=2)
    assert (folder / LEDGER_FILE).stat().st_mode & 0o777 == 0o600
    (entry,) = read_ledger(folder).values()
    certificate = x509.load_pem_x509_certificate((made / "cert.pem").read_bytes())
    assert (entry.serial, entry.node, entry.role) == (serial(made), "cloud-1", "cloud")
    assert entry.until == certificate.not_valid_after_utc


def test_commands_at_once_lose_no_entry(folder: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda number: issue(folder, f"edge-{number}", Role.EDGE), range(16)))
    assert set(read_ledger(folder)) == set(map(serial, made))


def test_a_write_that_fails_leaves_the_ledger_and_the_keys_as_they_were(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue(folder, "edge-1", Role.EDGE)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeysError, match=r"Cannot write .*No space left"):
        rotate(folder, "edge-1")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("line", ["{}", "nonsense", '{"serial": "x", "node": "a", "role": "edge", "until": "never"}'])
def test_a_broken_ledger_is_named_and_nothing_is_lost(folder: Path, line: str) -> None:
    issue(folder, "edge-1", Role.EDGE)
    before = (folder / LEDGER_FILE).read_text() + line + "\n"
    (folder / LEDGER_FILE).write_text(before)
    with pytest.raises(KeysError, match=r"Line 2 of .*issued\.jsonl"):
        revoke(folder, "edge-1")
    assert (folder / LEDGER_FILE).read_text() == before


COMMANDS: dict[str, Callable[[Path], Any]] = {
    "init": lambda folder: init_authority(folder / "inner"),
    "issue": lambda folder: issue(folder, "edge-2", Role.EDGE),
    "rotate": lambda folder: rotate(folder, "edge-1"),
    "revoke": lambda folder: revoke(folder, "edge-1"),
}


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_folder_that_cannot_be_written_is_named(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only mount; permissions would not stop tests that run as root."""
    issue(folder, "edge-1", Role.EDGE)
    really = os.open

    def read_only(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return really(path, flags, *rest, **more)

    def no_unlink(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(Path, "unlink", no_unlink)
    with pytest.raises(KeysError, match=r"Cannot write .*Read-only file system"):
        COMMANDS[command](folder)
