"""Cuts and plans as text and back, and their order."""

import pytest

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, CutKind, Plan, every_cut
from splitvlm.errors import UsageError


def test_every_cut_goes_to_text_and_back_in_order_of_depth() -> None:
    cuts = every_cut(3, 2)
    assert [str(cut) for cut in cuts] == [
        "image", "vision:1", "vision:2", "vision:3", "tokens", "lm:1", "lm:2", "device",
    ]  # fmt: skip
    assert [Cut.parse(str(cut)) for cut in cuts] == list(cuts)
    assert sorted(cuts, key=lambda cut: cut.depth) == list(cuts)


@pytest.mark.parametrize("text", ["", "lm", "lm:0", "vision:-1", "tokens:2", "lm:1x", "Image", "vision:10000", "lm:٣"])
def test_what_is_no_cut(text: str) -> None:
    with pytest.raises(UsageError, match="is not a cut"):
        Cut.parse(text)


@pytest.mark.parametrize("text", ["tokens/int4", "image/jpeg75", "lm:3/lossless", "vision:2/int8@half"])
def test_plans_go_to_text_and_back(text: str) -> None:
    assert str(Plan.parse(text)) == text


def test_a_plan_without_level_is_lossless_and_device_has_none() -> None:
    assert Plan.parse("tokens") == Plan(TOKENS, "lossless")
    assert Plan.parse("device") == Plan(DEVICE, "none")
    assert Plan.parse("tokens@w8") == Plan(TOKENS, "lossless", "w8")
    assert Plan.parse("device@w8") == Plan.parse("device/none@w8") == Plan(DEVICE, "none", "w8")


def test_only_cuts_in_the_language_model_pay_a_trip_per_token() -> None:
    paying = [cut for cut in every_cut(2, 2) if cut.trips_per_token]
    assert [cut.kind for cut in paying] == [CutKind.LM, CutKind.LM]
    assert DEVICE.decodes_on_device
    assert not IMAGE.decodes_on_device
