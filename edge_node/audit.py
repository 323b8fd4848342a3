"""The audit log: a JSON line for each question, answered or unfinished, with what left the device for it.

    {"time": "2026-03-01T12:00:00.000Z", "request": "5f0c2e91ab34", "outcome": "answered",
     "plan": "tokens/klt8", "answered_by": "cloud", "sealed_bytes": 733, "leak": 0.48}

`sealed_bytes` counts all attempts, hedges and take-overs included. `leak` is 0 where nothing left, and null where what left was
never measured. No picture, question or answer is in it. Two files are kept: this one, and the full one before it.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from edge_node.answering.report import RequestReport
from splitvlm.errors import ConfigError

_log = logging.getLogger("splitvlm.edge.audit")


class AuditLog:
    """Appends to the file at `path`, which only its owner may read. Where a line cannot be written, the node's log says so."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        """Raises ConfigError where the file cannot be written."""
        self._path = path
        self._most_bytes = most_bytes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(b"")
        except OSError as error:
            raise ConfigError(
                f"privacy.audit_log: {path} cannot be written: {error.strerror}.",
                advice="Name a file in a folder that this node may write to.",
            ) from error

    def write(self, report: RequestReport, leak: float | None, outcome: str) -> None:
        """Writes one question. `leak` is that of its plan; `outcome` is `answered` or `unfinished`."""
        sealed_bytes = report.exchange.bytes_sent
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request": report.request_id,
            "outcome": outcome,
            "plan": str(report.plan),
            "answered_by": str(report.answered_by or ""),
            "sealed_bytes": sealed_bytes,
            "leak": leak if sealed_bytes else 0.0,
        }
        try:
            self._append(json.dumps(line).encode() + b"\n")
        except OSError as error:
            _log.error("the audit log %s misses a line: %s", self._path, error.strerror, extra=line)

    def _append(self, line: bytes) -> None:
        if self._path.exists() and self._path.stat().st_size + len(line) > self._most_bytes:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)
