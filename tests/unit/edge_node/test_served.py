"""A node serves a cut in a form where its configuration, its privacy and its memory allow it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.planner import Planner
from edge_node.privacy import EVERYTHING_MAY_LEAVE, PrivacyDoor
from edge_node.served import ServedForm, opened_variants, served_forms
from edge_node.settings import EdgePlanning, EdgeSettings
from splitvlm.bundle import Bundle, open_bundle
from splitvlm.codec.codec import Codec
from splitvlm.domain import DEVICE, IMAGE, TOKENS, Plan
from splitvlm.errors import ConfigError, UsageError
from splitvlm.model.loading import read_spec
from splitvlm.variants.folder import Variant, memory_of
from tests.samples import tiny_model
from tests.variants import short_variant

MODEL = tiny_model("scenes-like")
SPEC = read_spec(MODEL)
THREE = ["image", "tokens", "device"]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Variant:
    return short_variant(MODEL, tmp_path_factory.mktemp("variants") / "short")


@pytest.fixture
def bundle() -> Bundle:
    return open_bundle(MODEL)


def forms(bundle: Bundle, short: Variant, door: PrivacyDoor | None = None, **more: object) -> dict[str, ServedForm]:
    settings = EdgeSettings.model_validate({"planning": {"cuts": THREE}} | more)
    return served_forms(settings, bundle, [short], door or EVERYTHING_MAY_LEAVE)


def test_each_form_has_the_cuts_that_are_allowed_and_its_own(bundle: Bundle, short: Variant) -> None:
    served = forms(bundle, short)
    assert served["full"].cuts == (IMAGE, TOKENS, DEVICE)
    assert served["short"].cuts == (TOKENS, DEVICE)
    assert "short" not in forms(bundle, short, planning={"cuts": ["image"]})


def test_a_form_too_large_for_the_device_is_left_to_a_smaller_one(bundle: Bundle, short: Variant) -> None:
    between = (memory_of(short, SPEC, DEVICE) + memory_of(None, SPEC, DEVICE)) // 2
    served = forms(bundle, short, planning={"cuts": ["tokens", "device"], "device_memory_bytes": between})
    assert DEVICE not in served["full"].cuts
    assert served["short"].cuts == (TOKENS, DEVICE)
    few = memory_of(short, SPEC, TOKENS)
    served = forms(bundle, short, planning={"cuts": ["tokens"], "device_memory_bytes": few})
    assert (served["full"].cuts, served["short"].cuts) == ((), (TOKENS,))
    with pytest.raises(ConfigError, match="smallest allowed cut"):
        forms(bundle, short, planning={"cuts": ["tokens"], "device_memory_bytes": few - 1})


def test_device_only_leaves_the_whole_model_in_any_form(bundle: Bundle, short: Variant) -> None:
    settings = {"planning": {"cuts": THREE}, "privacy": {"mode": "device_only"}}
    door = PrivacyDoor(EdgeSettings.model_validate(settings).privacy, {})
    assert {name: form.cuts for name, form in forms(bundle, short, door, **settings).items()} == {
        "full": (DEVICE,),
        "short": (DEVICE,),
    }


def test_a_planner_knows_plans_by_their_form(short: Variant) -> None:
    form = ServedForm((TOKENS,), Codec(), short)
    planner = Planner(EdgePlanning(), (IMAGE,), Codec(), EVERYTHING_MAY_LEAVE, [form])
    assert planner.checked("tokens/int4@short") == Plan(TOKENS, "int4", "short")
    assert not planner.can_finish_alone
    with pytest.raises(UsageError, match="does not serve the cut tokens"):
        planner.checked("tokens/int4")
    with pytest.raises(UsageError, match="does not serve the cut image by the variant short"):
        planner.checked("image/jpeg75@short")
    with pytest.raises(UsageError, match="has no variant int8"):
        planner.checked("tokens/int4@int8")


def test_a_planner_without_a_table_answers_alone_in_the_form_that_can(short: Variant) -> None:
    form = ServedForm((TOKENS, DEVICE), Codec(), short)
    planner = Planner(EdgePlanning(), (IMAGE,), Codec(), EVERYTHING_MAY_LEAVE, [form])
    assert planner.choose("", None, False).plan == Plan(DEVICE, "none", "short")


def test_a_configuration_s_variants_are_of_its_model(short: Variant, tmp_path: Path) -> None:
    settings = EdgeSettings.model_validate({"variants": [str(short.folder)]})
    with pytest.raises(ConfigError, match=r"variants: The variant short in .* was made from another model"):
        opened_variants(settings, read_spec("scenes"))
    with pytest.raises(ConfigError, match=r"variants: .* is no variant: there is no variant\.json"):
        opened_variants(EdgeSettings.model_validate({"variants": [str(tmp_path)]}), SPEC)
