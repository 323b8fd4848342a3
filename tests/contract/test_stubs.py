"""The committed stubs are what the sources in `proto/` generate, and `proto/` is no package."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "proto").rglob("*.proto"))


def test_the_stubs_are_up_to_date(tmp_path: Path) -> None:
    outputs = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    compiler = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto")]
    subprocess.run([*compiler, *outputs, *map(str, SOURCES)], check=True)
    made = sorted(path for path in tmp_path.rglob("*.py"))
    assert len(made) == 2 * len(SOURCES)
    for path in made:
        assert path.read_text() == (ROOT / path.relative_to(tmp_path)).read_text(), f"{path.name}: run `make proto`"


def test_proto_is_not_importable() -> None:
    assert not list((ROOT / "proto").rglob("__init__.py"))
    found = importlib.util.find_spec("proto")
    assert found is None or str(ROOT) not in str(found.origin)
