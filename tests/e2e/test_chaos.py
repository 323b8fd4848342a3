"""One of each fault of the laboratory (`make chaos` runs more)."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitvlm.scenes import MODEL_DIR
from tests.e2e.chaos import chaos
from tests.e2e.laboratory import Laboratory

NUM_QUESTIONS = 3  # each is asked once under every plan first, greedy and drawn


@pytest.mark.skipif(not (MODEL_DIR / "model.safetensors").exists(), reason="the embedded model is missing")
async def test_every_answer_is_that_without_the_fault(tmp_path: Path) -> None:
    num_faults = len(Laboratory.FAULTS)
    result = await chaos(num_faults, 3, Laboratory(tmp_path), NUM_QUESTIONS)
    assert result["complete"] == result["identical"] == num_faults
    assert result["duplicates"] == 0
    assert result["taken_over"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not (MODEL_DIR / "model.safetensors").exists(), reason="the embedded model is missing")
async def test_every_answer_of_a_ray_pool_is_that_without_the_fault(tmp_path: Path) -> None:
    """A worker, a Ray node and the front end are killed: the first three faults."""
    pytest.importorskip("ray")
    from tests.e2e.ray_laboratory import RayLaboratory

    result = await chaos(3, 3, RayLaboratory(tmp_path), NUM_QUESTIONS)
    assert result["complete"] == result["identical"] == 3
    assert result["duplicates"] == 0
