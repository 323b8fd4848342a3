"""Finds the back end that runs an exported stage fastest on this device, once: the cache keeps it beside the profile."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from splitvlm.backends.timing import BackendChoice, TimedBackend, fastest_backend
from splitvlm.profiling.cache import cached


def backend_choice(path: Path, file_hash: str, stage_precision: str, *, threads: int | None) -> BackendChoice:
    """Returns the fastest back end of a stage's file, from the cache where file, machine, threads and libraries are the same.

    Raises UsageError where none can run it here.
    """
    return cached(
        "backend",
        {"stage": file_hash, "precision": stage_precision, "threads": threads},
        lambda: fastest_backend(path, stage_precision, threads=threads),
        _to_bytes,
        _from_bytes,
    )


def _to_bytes(choice: BackendChoice) -> bytes:
    return json.dumps(asdict(choice)).encode()


def _from_bytes(data: bytes) -> BackendChoice:
    from splitvlm.files.text import parse_json

    kept: dict[str, Any] = parse_json(data.decode(), "backend choice")
    return BackendChoice(**kept | {"timed": tuple(TimedBackend(**entry) for entry in kept["timed"])})
