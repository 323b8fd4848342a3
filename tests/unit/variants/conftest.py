"""A variant of the embedded model that takes no training, made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitvlm.variants.make import make_variant
from tests.made_once import made_once


@pytest.fixture(scope="session")
def made_bf16() -> Path:
    return made_once("variant-bf16", lambda folder: make_variant("bf16", "scenes", folder))
