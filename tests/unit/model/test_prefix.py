"""Another question about a picture that has been seen: the tokens are those of `generate`, and only the question is run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut
from splitvlm.errors import PrefixEvicted, ProtocolError
from splitvlm.model.boundary import IDS
from splitvlm.model.loading import load_cloud, load_device, load_whole
from splitvlm.model.parts import CloudPart, DevicePart
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import Reference
from splitvlm.model.upper_run import UpperRun
from tests.tiny_models import FAMILIES, picture, save

PICTURE, OTHER = picture(64, 64, 5), picture(40, 90, 6)
FIRST, SECOND = "How many?", "Is there a lake in this picture?"
TOKENS_ASKED = 10
VISION = Cut.parse("vision:1")


def answer(run: UpperRun) -> list[int]:
    tokens = [run.first()]
    while not run.finished:
        tokens.append(run.next(None))
    return tokens


def first_run(device: DevicePart, cloud: CloudPart, cut: Cut) -> UpperRun:
    if cut == IMAGE:
        return cloud.upper_from_prompt(Prompt.about(PICTURE, FIRST), TOKENS_ASKED)
    return cloud.upper(cut, device.lower(Prompt.about(PICTURE, FIRST), cut).boundary, TOKENS_ASKED)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_second_question_gets_the_tokens_of_generate(kind: str, tmp_path: Path) -> None:
    folder = str(save(kind, tmp_path))
    reference = Reference(*load_whole(folder))
    device, cloud = load_device(folder, [DEVICE]), load_cloud(folder, [IMAGE])
    expected = [reference.tokens(Prompt.about(PICTURE, question), TOKENS_ASKED) for question in (FIRST, SECOND)]
    assert expected[0] != expected[1], "two questions with one answer would prove little"
    for cut in (IMAGE, VISION, TOKENS):
        run = first_run(device, cloud, cut)
        assert answer(run) == expected[0]
        prefix = run.prefix()
        assert prefix is not None
        assert prefix.num_bytes > 0
        for question, tokens in ((SECOND, expected[1]), (FIRST, expected[0]), (SECOND, expected[1])):
            inputs = cloud.inputs(Prompt.about(PICTURE, question))
            prompt = inputs if cut == IMAGE else {IDS: inputs["input_ids"][0]}
            again = cloud.prefix_cached(prefix, cut, prompt, TOKENS_ASKED)
            assert answer(again) == tokens
            following = again.prefix()
            assert following is not None
            assert torch.equal(following.ids_P, inputs["input_ids"][0])


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[DevicePart, CloudPart]:
    folder = str(save("qwen2.5-vl", tmp_path_factory.mktemp("again")))
    return load_device(folder, [DEVICE]), load_cloud(folder, [IMAGE])


def test_neither_tower_nor_prefix_is_run_again(parts: tuple[DevicePart, CloudPart]) -> None:
    device, cloud = parts
    run = first_run(device, cloud, TOKENS)
    run.first()
    prefix = run.prefix()
    assert prefix is not None
    prompt = {IDS: device.prompt_ids(Prompt.about(PICTURE, SECOND))}
    again = cloud.prefix_cached(prefix, TOKENS, prompt, TOKENS_ASKED)
    rows: list[int] = []
    stages: Counter[str] = Counter()
    layer = cloud.family.stack(cloud.model).layers[0]
    hook = layer.register_forward_pre_hook(lambda _module, given: rows.append(given[0].shape[1]))
    cloud.on_stage = lambda stage, _seconds: stages.update([stage])
    again.first()
    hook.remove()
    cloud.on_stage = None
    shared = prefix.num_shared(prompt[IDS])
    assert shared >= prefix.images_end > 0
    assert rows == [len(prompt[IDS]) - shared]
    assert not any(stage.startswith(("vision", "patches", "connector", "prepare")) for stage in stages)


def test_another_pictures_prompt_is_refused(parts: tuple[DevicePart, CloudPart]) -> None:
    device, cloud = parts
    run = first_run(device, cloud, TOKENS)
    run.first()
    prefix = run.prefix()
    assert prefix is not None
    good = {IDS: device.prompt_ids(Prompt.about(PICTURE, SECOND))}
    cut_short = {IDS: good[IDS][: prefix.images_end]}
    for prompt in ({IDS: device.prompt_ids(Prompt.about(OTHER, SECOND))}, cut_short):
        with pytest.raises(PrefixEvicted):
            cloud.prefix_cached(prefix, TOKENS, prompt, TOKENS_ASKED)
    two_images = {IDS: torch.cat([good[IDS], prefix.ids_P])}
    unasked = good | {"hidden": torch.zeros(1, 48)}
    for malformed in ({}, two_images, unasked, {IDS: good[IDS] - 400}, {IDS: good[IDS].int()}):
        with pytest.raises(ProtocolError):
            cloud.prefix_cached(prefix, TOKENS, malformed, TOKENS_ASKED)


def test_layers_on_the_device_keep_their_own_caches(parts: tuple[DevicePart, CloudPart]) -> None:
    device, cloud = parts
    cut = Cut.parse("lm:1")
    run = cloud.upper(cut, device.lower(Prompt.about(PICTURE, FIRST), cut).boundary, TOKENS_ASKED)
    run.first()
    assert run.prefix() is None


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_run_goes_on_after_tokens_that_another_gave(kind: str, tmp_path: Path) -> None:
    """On the device alone, from its lower part, and in the cloud at each kind of cut."""
    folder = str(save(kind, tmp_path, repetition_penalty=1.3))
    expected = Reference(*load_whole(folder)).tokens(Prompt.about(PICTURE, SECOND), TOKENS_ASKED)
    device, cloud = load_device(folder, [DEVICE]), load_cloud(folder, [IMAGE])
    for known in (0, 1, 4, len(expected)):
        given, rest = expected[:known], expected[known:]
        assert list(device.generate(Prompt.about(PICTURE, SECOND), TOKENS_ASKED, given)) == rest
        assert list(device.go_on(device.lower(Prompt.about(PICTURE, SECOND), VISION), TOKENS_ASKED, given)) == rest
        for cut in (TOKENS, Cut.parse("lm:2")):
            lower = device.lower(Prompt.about(PICTURE, SECOND), cut)
            run, got = cloud.upper(cut, lower.boundary, TOKENS_ASKED), list[int]()
            while not run.finished:
                step = lower.step(got[-1]) if got and cut != TOKENS else None
                taken = given[len(got)] if len(got) < known else None
                got.append(run.next(step, taken) if got else run.first(taken))
            assert got == expected
