"""`auto` stands for the faster dtype; what a configuration names stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_node.settings import CloudSettings
from splitvlm.model import dtype_choice
from splitvlm.model.dtype_choice import DtypeTimes, faster, measured_times, with_dtype


@pytest.mark.parametrize(
    ("float32_s", "bfloat16_s", "expected"),
    [(2.0, 1.0, "bfloat16"), (1.0, 7.0, "float32"), (1.0, 0.95, "float32"), (1.15, 1.0, "bfloat16")],
)
def test_bfloat16_has_to_save_enough(float32_s: float, bfloat16_s: float, expected: str) -> None:
    assert faster(DtypeTimes(float32_s, bfloat16_s)) == expected


def test_both_are_timed_on_this_machine() -> None:
    assert min(measured_times("cpu")) > 0


@pytest.mark.parametrize(("named", "expected"), [("auto", "bfloat16"), ("float32", "float32")])
def test_a_node_takes_what_was_measured_only_where_it_may(
    named: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dtype_choice, "measured_times", lambda device: DtypeTimes(2.0, 1.0))
    settings = CloudSettings.model_validate({"model": {"dtype": named}})
    assert with_dtype(settings).model.dtype == expected
    assert settings.model.dtype == named
