"""`calibrate`, `evaluate --plans` and `leak` write into the bundle, and nothing into the model's folder (DESIGN.md, law 7)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from splitvlm.bundle import open_bundle
from splitvlm.calibration.calibrate import calibrate
from splitvlm.domain import TOKENS
from splitvlm.evaluation import plan_accuracy
from splitvlm.evaluation.command import Selection, evaluate_plans
from splitvlm.model.loading import load_whole
from tests.tiny_models import save

PICTURES = 14


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = save("scenes-like", tmp_path / "model")
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What changes when a file, or the folder itself, is written."""
    paths = [folder, *folder.rglob("*")]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in paths}


def in_process(_workers: int, begin: Any = None, *arguments: Any) -> Executor:
    return ThreadPoolExecutor(1, initializer=begin, initargs=arguments)


def test_nothing_is_written_into_the_model_s_folder(
    read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splitvlm.calibration.calibrate.worker_pool", in_process)
    monkeypatch.setattr(plan_accuracy, "worker_pool", in_process)
    monkeypatch.setattr(plan_accuracy, "_process_state", [])
    before = stamps(read_only)
    name, bundle = str(read_only), tmp_path / "bundle"
    assert calibrate(name, None, PICTURES, steps=1, folder=bundle) == bundle / "calibration.safetensors"
    few = Selection(cuts=["tokens"], levels=["klt3"])
    result = evaluate_plans(name, None, 2, 0, few, bundle)
    learned = open_bundle(name, bundle)
    assert TOKENS in learned.codec.channels
    assert {str(plan) for plan in learned.accuracy} == {"tokens/lossless", "tokens/klt3"} == set(result["plans"])  # type: ignore[call-overload]
    assert stamps(read_only) == before
    load_whole(name)  # transformers, and whoever reads every *.safetensors, finds the weights alone
