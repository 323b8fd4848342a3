"""One of each fault of the laboratory (`make chaos` runs more)."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitvlm.scenes import MODEL_DIR
from tests.e2e.chaos import FAULTS, chaos


@pytest.mark.skipif(not (MODEL_DIR / "model.safetensors").exists(), reason="the embedded model is missing")
async def test_every_answer_is_that_without_the_fault(tmp_path: Path) -> None:
    result = await chaos(len(FAULTS), 3, tmp_path)
    assert result["complete"] == result["identical"] == len(FAULTS)
    assert result["duplicates"] == 0
    assert result["taken_over"] > 0
