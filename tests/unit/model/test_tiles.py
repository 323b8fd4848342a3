"""Prompts that are run as their tiles come."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from splitvlm.domain import IMAGE, TOKENS, Cut
from splitvlm.errors import ProtocolError
from splitvlm.model.boundary import Boundary
from splitvlm.model.loading import load_cloud, load_device, load_whole
from splitvlm.model.parts import CloudPart, DevicePart
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import Reference
from splitvlm.model.tiles import TiledRun, in_tiles
from tests.tiny_models import picture, save

ASKED = picture(90, 60, 3), "Describe the picture."
CUTS = Cut.parse("vision:1"), TOKENS
MOST = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save("idefics3", tmp_path_factory.mktemp("tiles")))


@pytest.fixture(scope="module")
def device(folder: str) -> DevicePart:
    return load_device(folder, [TOKENS], threads=1)


@pytest.fixture(scope="module")
def cloud(folder: str) -> CloudPart:
    return load_cloud(folder, [IMAGE])


def begun(cloud: CloudPart, cut: Cut, first: Boundary) -> TiledRun:
    run = in_tiles(cloud, cut, first, MOST)
    assert run is not None
    return run


@pytest.mark.parametrize("cut", CUTS)
def test_the_prompt_is_run_as_far_as_its_tiles_are_there(
    device: DevicePart, cloud: CloudPart, folder: str, cut: Cut
) -> None:
    lower = device.begin(Prompt.about(*ASKED), cut)
    run = begun(cloud, cut, lower.tile(0))
    assert run._language is not None
    lengths = []
    for place in range(lower.num_tiles):
        run.add(lower.tile(place)) if place else run.begin()
        lengths.append(run._language._length)
    assert lengths == sorted(set(lengths)), "each tile lets more of the prompt run"
    assert lengths[-1] < lower.num_prompt_tokens
    tokens = [run.first()]
    while not run.finished:
        tokens.append(run.next(None))
    assert tokens == Reference(*load_whole(folder)).tokens(Prompt.about(*ASKED), MOST)


def test_a_family_whose_image_tokens_see_those_after_them_waits_for_all(tmp_path: Path) -> None:
    folder = str(save("gemma3", tmp_path))
    lower = load_device(folder, [TOKENS]).lower(Prompt.about(*ASKED), TOKENS)
    assert in_tiles(load_cloud(folder, [TOKENS]), TOKENS, lower.tile(0), MOST) is None


@pytest.mark.parametrize("cut", CUTS)
def test_too_few_tiles_and_too_many_are_refused(device: DevicePart, cloud: CloudPart, cut: Cut) -> None:
    lower = device.begin(Prompt.about(*ASKED), cut)
    run = begun(cloud, cut, lower.tile(0))
    for place in range(lower.num_tiles):
        with pytest.raises(ProtocolError, match="places for"):
            run.first()
        run.add(lower.tile(place)) if place else run.begin()
    with pytest.raises(ProtocolError, match="fewer than visual tokens"):
        run.add(lower.tile(1))


@pytest.mark.parametrize("cut", CUTS)
def test_a_first_tile_that_does_not_fit_is_refused(device: DevicePart, cloud: CloudPart, cut: Cut) -> None:
    good = device.begin(Prompt.about(*ASKED), cut).tile(0)
    hidden, ids = good["hidden"], good["ids"]
    for bad in (
        {"hidden": hidden},
        {"ids": ids},
        good | {"ids": ids.float()},
        good | {"ids": ids - 10_000},
        good | {"ids": ids[:0]},
        good | {"hidden": hidden[..., 1:]},
        good | {"hidden": hidden[:0]},
        good | {"hidden": hidden * torch.nan},
        good | {"patches": torch.ones(1, 4, 4, dtype=torch.uint8)},
        good | {"grid": ids},
    ):
        with pytest.raises(ProtocolError):
            in_tiles(cloud, cut, bad, MOST)


@pytest.mark.parametrize("cut", CUTS)
def test_a_later_tile_that_does_not_fit_is_refused(device: DevicePart, cloud: CloudPart, cut: Cut) -> None:
    lower = device.begin(Prompt.about(*ASKED), cut)
    hidden = lower.tile(1)["hidden"]
    run = begun(cloud, cut, lower.tile(0))
    run.begin()
    for bad in (
        lower.tile(0),
        {},
        {"hidden": hidden[..., 1:]},
        {"hidden": hidden[:0]},
        {"hidden": hidden * torch.inf},
        {"hidden": hidden.long()},
        {"hidden": hidden[None]},
    ):
        with pytest.raises(ProtocolError):
            run.add(bad)


def test_a_prompt_without_places_is_refused(device: DevicePart, cloud: CloudPart) -> None:
    first = device.begin(Prompt.about(*ASKED), TOKENS).tile(0)
    run = begun(cloud, TOKENS, first | {"ids": torch.arange(5, 40)})
    with pytest.raises(ProtocolError, match="0 places"):
        run.begin()
