"""The authority's ledger: every certificate that it ever issued, so that all of a node's can be revoked.

    FOLDER/issued.jsonl    a line for each certificate: {"serial": hexadecimal, "node": name, "role": role, "until": ISO 8601}

A node may be anywhere with a copy of a certificate whose file here was replaced or removed: files do not tell what was
issued. A certificate stands in the ledger before it stands in a node's folder. An authority that is older than its ledger
gets one from the nodes' folders that are found beside it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from splitvlm.crypto.identity import name_in
from splitvlm.crypto.keyfiles import replace
from splitvlm.errors import KeysError, UsageError
from splitvlm.files.text import parse_json

LEDGER_FILE: Final = "issued.jsonl"


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """Records one certificate that an authority issued. `until` is its end, in UTC."""

    serial: int
    node: str
    role: str
    until: dt.datetime

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Self:
        """Returns the entry of a node's certificate. Raises KeysError."""
        node, role = name_in(certificate)
        return cls(certificate.serial_number, node, str(role), certificate.not_valid_after_utc)

    @classmethod
    def parse(cls, line: str) -> Self:
        """Returns the entry of a line of the file. Raises ValueError."""
        try:
            values = parse_json(line, LEDGER_FILE)
            until = dt.datetime.fromisoformat(values["until"])
            return cls(int(values["serial"], 16), str(values["node"]), str(values["role"]), until)
        except (UsageError, KeyError, TypeError) as error:
            raise ValueError(line) from error

    def line(self) -> str:
        """Returns the entry as a line of the file."""
        values = {"serial": f"{self.serial:x}", "node": self.node, "role": self.role, "until": self.until.isoformat()}
        return json.dumps(values) + "\n"


def read_ledger(folder: Path) -> dict[int, IssuedCertificate]:
    """Returns the ledger of the authority in `folder` by serial number, empty where there is no file. Raises KeysError."""
    path = folder / LEDGER_FILE
    try:
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise KeysError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise _broken(path, 1) from error
    issued = {}
    for number, line in enumerate(lines if lines != [""] else [], 1):
        try:
            entry = IssuedCertificate.parse(line)
        except ValueError as error:
            raise _broken(path, number) from error
        issued[entry.serial] = entry
    return issued


def record(folder: Path, certificates: Iterable[x509.Certificate]) -> dict[int, IssuedCertificate]:
    """Adds certificates to the ledger of the authority in `folder`, and returns all of it. Raises KeysError."""
    before = read_ledger(folder)
    issued = before | {entry.serial: entry for entry in map(IssuedCertificate.of, certificates)}
    if issued != before:
        replace(folder / LEDGER_FILE, "".join(entry.line() for entry in issued.values()).encode(), 0o600)
    return issued


def _broken(path: Path, number: int) -> KeysError:
    return KeysError(
        f"Line {number} of {path} is no entry of a ledger.",
        advice="Restore the file from a backup: without it, certificates that were issued before cannot be revoked.",
    )
