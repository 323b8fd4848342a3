"""Forms of the device's part share one language model; their towers come and go, and answers stay what they are."""

from __future__ import annotations

import weakref

import pytest

from splitvlm.bundle import open_bundle
from splitvlm.domain import DEVICE, FULL, TOKENS, Cut
from splitvlm.local_model import LocalModel
from splitvlm.model.boundary import HIDDEN
from splitvlm.model.loading import read_spec
from splitvlm.model.parts import DevicePart
from splitvlm.model.prompt import Prompt
from splitvlm.settings import ModelChoice
from splitvlm.variants.device_forms import DeviceForm, load_forms
from splitvlm.variants.folder import Variant, memory_of
from tests.samples import PICTURE, tiny_model
from tests.variants import short_variant

MODEL = tiny_model("scenes-like")
SPEC = read_spec(MODEL)
VISION = Cut.parse("vision:2")
QUESTION = "How many cells are infected?"


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Variant:
    return short_variant(MODEL, tmp_path_factory.mktemp("variants") / "short")


def forms(short: Variant, device_memory_bytes: int | None = None) -> dict[str, DeviceForm]:
    cuts = {FULL: (VISION, TOKENS, DEVICE), short.name: (TOKENS, DEVICE)}
    return load_forms(ModelChoice(name=MODEL, threads=1), cuts, open_bundle(MODEL), [short], device_memory_bytes)


def answer(part: DevicePart) -> list[int]:
    return list(part.generate(Prompt.about(PICTURE, QUESTION), 6))


def test_a_form_beside_others_is_the_form_alone(short: Variant) -> None:
    made, alone = forms(short), LocalModel.load(MODEL, [DEVICE]).device
    full, other = made[FULL].part, made["short"].part
    assert answer(full) == answer(alone)
    for cut in (VISION, TOKENS):
        assert (
            full.lower(Prompt.about(PICTURE, QUESTION), cut)
            .boundary[HIDDEN]
            .equal(alone.lower(Prompt.about(PICTURE, QUESTION), cut).boundary[HIDDEN])
        )
    assert other.model is full.model, "one language model"
    assert (
        not other.lower(Prompt.about(PICTURE, QUESTION), TOKENS)
        .boundary[HIDDEN]
        .equal(alone.lower(Prompt.about(PICTURE, QUESTION), TOKENS).boundary[HIDDEN])
    )


def test_a_tower_goes_where_another_needs_its_room(short: Variant) -> None:
    made = forms(short, memory_of(None, SPEC, DEVICE))
    full, other = made[FULL].part, made["short"].part
    expected = {part: answer(part) for part in (full, other)}
    tower = weakref.ref(full.tower)
    run = full.begin(Prompt.about(PICTURE, QUESTION), TOKENS)
    assert answer(other) == expected[other]
    assert tower() is None, (
        "its weights are free at once, although a request goes on: no circle waits for the collector"
    )
    alone = LocalModel.load(MODEL, [TOKENS]).device.lower(Prompt.about(PICTURE, QUESTION), TOKENS)
    assert run.boundary[HIDDEN].equal(alone.boundary[HIDDEN]), "it comes again for the rest of that request"
    assert answer(full) == expected[full]


def test_a_run_goes_on_in_its_own_form(short: Variant) -> None:
    part = forms(short)["short"].part
    run = part.lower(Prompt.about(PICTURE, QUESTION), TOKENS)
    assert run.can_finish_here
    assert list(run.part.go_on(run, 6)) == answer(part)
