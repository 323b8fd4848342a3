"""A plan's leak: as measured, and never less than what can be computed from what it sends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_node.privacy import PrivacyDoor
from edge_node.served import allowed_cuts
from edge_node.settings import EdgeSettings
from splitvlm.bundle import open_bundle
from splitvlm.bundle.leaks import leaks_of, read_leaks
from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, Plan
from splitvlm.errors import ConfigError
from splitvlm.model.loading import read_spec

EARLY, LATE = Cut.parse("vision:1"), Cut.parse("lm:2")
MEASURED = {
    Plan(IMAGE, "lossless"): 1.0,
    Plan(EARLY, "lossless"): 0.7,
    Plan(EARLY, "klt6"): 0.2,
    Plan(TOKENS, "lossless"): 0.8,  # a better attacker than that of the shallower cut
    Plan(LATE, "lossless"): 0.3,
}


def leak_file(folder: Path, rows: dict[str, dict[str, float]]) -> Path:
    path = folder / "leak.json"
    path.write_text(json.dumps({"calibration": "", "plans": rows}), "utf-8")
    return path


def test_the_scale_goes_from_a_blank_picture_to_the_picture(tmp_path: Path) -> None:
    answered = {"tokens/a": 0.2, "tokens/b": 0.6, "tokens/c": 1.0, "tokens/d": 0.1}
    file = leak_file(tmp_path, {plan: {"floor": 0.2, "answered": share} for plan, share in answered.items()})
    assert list(read_leaks(file, "").values()) == pytest.approx([0.0, 0.5, 1.0, 0.0])


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
    plan = Plan(*coding)
    assert leaks_of([plan], MEASURED) == {plan: leak}


@pytest.mark.parametrize(
    "coding", [(EARLY, "klt1"), (Cut.parse("vision:3"), "int4"), (TOKENS, "int4"), (Cut.parse("lm:1"), "lossless")]
)
def test_what_was_not_measured_is_unknown(coding: tuple[Cut, str]) -> None:
    assert leaks_of([Plan(*coding)], MEASURED) == {}
    assert leaks_of([Plan(*coding)], {}) == {}


def test_leaks_of_one_variant_say_nothing_about_another() -> None:
    small = Plan(TOKENS, "lossless", "w8")
    assert leaks_of([small], MEASURED) == {}
    assert leaks_of([small], MEASURED | {small: 0.1}) == {small: 0.1}
    deeper = MEASURED | {Plan(LATE, "int4", "w8"): 0.9}
    assert leaks_of([Plan(LATE, "lossless")], deeper) == {Plan(LATE, "lossless"): 0.3}


def test_the_embedded_model_s_leaks_fall_from_picture_to_depth() -> None:
    measured = open_bundle("scenes").leaks
    leaks = leaks_of([Plan(cut, "lossless") for cut in read_spec("scenes").cuts() if cut != DEVICE], measured)
    assert leaks[Plan(IMAGE, "lossless")] == 1.0
    assert sorted(leaks.values(), reverse=True) == list(leaks.values())


def test_a_model_without_measurements_has_none() -> None:
    assert open_bundle("shape:smolvlm-256m").leaks == {}


def test_cuts_that_leak_too_much_are_not_loaded() -> None:
    spec, codec = read_spec("scenes"), open_bundle("scenes").codec
    leaks = {Plan(cut, "int4"): leak for cut, leak in ((IMAGE, 1.0), (TOKENS, 0.5), (LATE, 0.2))}

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
