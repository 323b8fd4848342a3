"""The hash of a model's files is of what they hold now."""

from __future__ import annotations

import os
from pathlib import Path

from splitvlm.model.sources import _hash_of


def test_a_file_in_another_s_place_is_read_again(tmp_path: Path) -> None:
    """Also at the same length and date, as `cp -p` and archives make them."""
    weights, other = tmp_path / "model.safetensors", tmp_path / "other"
    weights.write_bytes(b"one")
    dates = weights.stat()
    before = _hash_of([weights])
    assert _hash_of([weights]) == before
    other.write_bytes(b"two")
    os.utime(other, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    other.replace(weights)
    after = _hash_of([weights])
    assert after != before
    weights.write_bytes(b"one")
    os.utime(weights, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    assert _hash_of([weights]) == before
