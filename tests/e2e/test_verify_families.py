"""`splitvlm verify --families` over real processes, for two of the families: one reads tiles, one packs crops."""

from __future__ import annotations

import pytest

from splitvlm.tools import verify, verify_families
from tests.forked import ForkedLauncher

KINDS = ("idefics3", "qwen2-vl")


async def test_families_are_exact_at_every_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "Launcher", ForkedLauncher)
    monkeypatch.setattr(verify_families, "FAMILIES", {kind: verify_families.FAMILIES[kind] for kind in KINDS})
    result = await verify_families.verify_families()
    assert result["exact"], result
    families = result["families"]
    assert isinstance(families, dict)
    assert list(families) == list(KINDS)


async def test_an_answer_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "Launcher", ForkedLauncher)
    monkeypatch.setattr(verify_families, "FAMILIES", {"scenes-like": verify_families.FAMILIES["scenes-like"]})
    monkeypatch.setattr(verify_families, "reference_tokens", lambda _model, prompts, _limit: [[0] for _ in prompts])
    result = await verify_families.verify_families()
    assert not result["exact"]
