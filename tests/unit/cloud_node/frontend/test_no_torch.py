"""A front end is a small process: what it imports must not bring torch, and no code that opens a sealed frame."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = (
    "cloud_node.frontend.servicer",
    "cloud_node.node",
    "cloud_node.pools.local",
    "cloud_node.pools.ray",
    "cloud_node.engine.protocol",
    "cloud_node.engine.turns",
    "cloud_node.worker.admission",
    "cloud_node.worker.process",
)
PROGRAM = "import sys, {module}; print(*(name for name in {heavy} if name in sys.modules))"


def loaded(module: str, *names: str) -> str:
    program = PROGRAM.format(module=module, heavy=names)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("module", MODULES)
def test_it_loads_no_torch(module: str) -> None:
    assert loaded(module, "torch", "transformers", "splitvlm.model", "splitvlm.codec") == ""


def test_the_front_end_loads_no_code_that_opens_frames() -> None:
    assert loaded(MODULES[0], "splitvlm.crypto.sealing", "splitvlm.crypto.handshake", "cloud_node.worker") == ""


def test_this_test_would_see_torch() -> None:
    assert loaded("cloud_node.engine.torch_engine", "torch") == "torch"
