"""A variant of the embedded model that takes no training, made once for all tests of a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitvlm.variants.make import make_variant


@pytest.fixture(scope="session")
def made_bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants") / "bf16"
    make_variant("bf16", "scenes", folder)
    return folder
