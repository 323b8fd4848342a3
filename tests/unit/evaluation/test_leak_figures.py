"""A plan's leak: as measured, and never less than what can be computed from what it sends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_node.node import allowed_cuts
from edge_node.privacy import PrivacyDoor
from edge_node.settings import EdgeSettings
from splitvlm import bundle
from splitvlm.bundle import codec_of, leaks_of, read_leaks, scaled
from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, Plan
from splitvlm.errors import ConfigError, UsageError
from splitvlm.model.loading import read_spec

EARLY, LATE = Cut.parse("vision:1"), Cut.parse("lm:2")
MEASURED = {
    Plan(IMAGE, "lossless"): 1.0,
    Plan(EARLY, "lossless"): 0.7,
    Plan(EARLY, "klt6"): 0.2,
    Plan(TOKENS, "lossless"): 0.8,  # a better attacker than that of the shallower cut
    Plan(LATE, "lossless"): 0.3,
}


def test_the_scale_goes_from_a_blank_picture_to_the_picture() -> None:
    rows = [
        {"cut": "tokens", "level": level, "answered": share} for level, share in (("a", 0.2), ("b", 0.6), ("c", 1.0))
    ]
    report = {"floor": 0.2, "rows": [*rows, {"cut": "tokens", "level": "d", "answered": 0.1}]}
    assert list(scaled(report).values()) == pytest.approx([0.0, 0.5, 1.0, 0.0])


@pytest.mark.parametrize(
    ("coding", "leak"),
    [
        ((EARLY, "lossless"), 0.8),  # whoever has it can compute the tokens
        ((EARLY, "klt6"), 0.2),
        ((TOKENS, "lossless"), 0.8),
        ((LATE, "lossless"), 0.3),
        ((IMAGE, "lossless"), 1.0),
    ],
)
def test_a_lossless_boundary_leaks_what_can_be_computed_from_it(coding: tuple[Cut, str], leak: float) -> None:
    assert leaks_of([coding], MEASURED) == {coding: leak}


@pytest.mark.parametrize(
    "coding", [(EARLY, "klt1"), (Cut.parse("vision:3"), "int4"), (TOKENS, "int4"), (Cut.parse("lm:1"), "lossless")]
)
def test_what_was_not_measured_is_unknown(coding: tuple[Cut, str]) -> None:
    assert leaks_of([coding], MEASURED) == {}
    assert leaks_of([coding], {}) == {}


def test_the_embedded_model_s_leaks_fall_from_picture_to_depth() -> None:
    measured = read_leaks("scenes")
    leaks = leaks_of([(cut, "lossless") for cut in read_spec("scenes").cuts() if cut != DEVICE], measured)
    assert leaks[IMAGE, "lossless"] == 1.0
    assert sorted(leaks.values(), reverse=True) == list(leaks.values())


def test_a_model_without_measurements_has_none() -> None:
    assert read_leaks("shape:smolvlm-256m") == {}


@pytest.mark.parametrize("content", ["[]", "{", json.dumps({"floor": 0.2}), json.dumps({"floor": 1, "rows": [{}]})])
def test_a_file_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    (tmp_path / "leak.json").write_text(content, "utf-8")
    monkeypatch.setattr(bundle, "model_file", lambda name, file: tmp_path / file)
    with pytest.raises(UsageError, match=r"holds no leaks|is not JSON"):
        read_leaks("any")


def test_cuts_that_leak_too_much_are_not_loaded() -> None:
    spec, codec = read_spec("scenes"), codec_of("scenes")
    leaks = {(cut, "int4"): leak for cut, leak in ((IMAGE, 1.0), (TOKENS, 0.5), (LATE, 0.2))}

    def cuts(planning: dict[str, object], **privacy: object) -> tuple[Cut, ...]:
        settings = EdgeSettings.model_validate({"planning": planning, "privacy": privacy})
        return allowed_cuts(settings, spec, codec, PrivacyDoor(settings.privacy, leaks))

    many = {"cuts": ["image", "vision:3", "tokens", "lm:2", "device"]}
    assert cuts(many, mode="max_leak", max_leak=0.5) == (TOKENS, LATE, DEVICE)
    assert cuts(many, mode="device_only") == (DEVICE,)
    assert cuts({}, mode="device_only") == (DEVICE,)
    with pytest.raises(ConfigError, match=r"privacy.max_leak is 0.1.*leaks more, or was not measured"):
        cuts({"cuts": ["image", "tokens"]}, mode="max_leak", max_leak=0.1)
    for planning in ({"cuts": ["image", "tokens"]}, {"fixed_plan": "tokens/int4"}):
        with pytest.raises(ConfigError, match="device_only, but this node does not serve the cut device"):
            cuts(planning, mode="device_only")
    with pytest.raises(ConfigError, match="smallest allowed cut, device"):
        cuts({"device_memory_bytes": 1_000_000}, mode="device_only")
