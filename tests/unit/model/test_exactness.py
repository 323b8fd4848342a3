"""Law 1: at every cut of every family the divided model gives the tokens of transformers' own `generate`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from splitvlm.domain import DEVICE, IMAGE, Cut, every_cut
from splitvlm.model.boundary import Boundary
from splitvlm.model.loading import load_cloud, load_device, load_whole
from splitvlm.model.parts import CloudPart, DevicePart
from splitvlm.model.processors import prompt_inputs
from splitvlm.model.prompt import Prompt
from splitvlm.model.upper_run import UpperRun
from tests.tiny_models import FAMILIES, picture, save

NUM_TOKENS = 12
PROMPTS = [
    (picture(64, 64, 1), "How many cells?"),
    (picture(100, 40, 2), "Is there a fire?"),
    (picture(30, 90, 3), "What is on the road, and where exactly does it stand?"),
]
KINDS = [pytest.param(kind, None, id=kind) for kind in FAMILIES]
KINDS.append(pytest.param("qwen2.5-vl", 1.3, id="qwen2.5-vl-penalty"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def folder(kind: str, penalty: float | None) -> str:
        path: Path = tmp_path_factory.mktemp("model")
        return str(save(kind, path, repetition_penalty=penalty))

    return folder


def reference(model: Any, processor: Any, image: Any, question: str) -> list[int]:
    inputs = prompt_inputs(processor, Prompt.about(image, question))
    made = model.generate(**inputs, do_sample=False, max_new_tokens=NUM_TOKENS)
    return made[0, inputs["input_ids"].shape[1] :].tolist()


def logits_of(part: DevicePart | CloudPart) -> list[torch.Tensor]:
    """A list that the part's logits are put in as it makes them."""
    made: list[torch.Tensor] = []
    original = part.logits

    def recorded(states: torch.Tensor) -> torch.Tensor:
        made.append(original(states))
        return made[-1]

    part.logits = recorded  # type: ignore[method-assign]
    return made


def carried(boundary: Boundary) -> Boundary:
    """As over a wire: nothing shared."""
    return {name: torch.tensor(tensor.tolist(), dtype=tensor.dtype) for name, tensor in boundary.items()}


def divided(device: DevicePart, cloud: CloudPart, image: Any, question: str, cut: Cut) -> list[int]:
    if cut == DEVICE:
        return list(device.generate(Prompt.about(image, question), NUM_TOKENS))
    if cut == IMAGE:
        return finish(cloud.upper_from_prompt(Prompt.about(device.picture(image), question), NUM_TOKENS))
    lower = device.lower(Prompt.about(image, question), cut)
    run = cloud.upper(cut, carried(lower.boundary), NUM_TOKENS)
    tokens = [run.first()]
    while not run.finished:
        tokens.append(run.next(carried(lower.step(tokens[-1])) if cut.trips_per_token else None))
    return tokens


def finish(run: UpperRun) -> list[int]:
    tokens = [run.first()]
    while not run.finished:
        tokens.append(run.next(None))
    return tokens


@pytest.mark.parametrize(("kind", "penalty"), KINDS)
def test_every_cut_gives_the_tokens_of_generate(saved: Any, kind: str, penalty: float | None) -> None:
    name = saved(kind, penalty)
    model, processor = load_whole(name, threads=1)
    expected = [reference(model, processor, image, question) for image, question in PROMPTS]
    assert len({token for tokens in expected for token in tokens}) >= 3, "the reference is degenerate"
    device, cloud = load_device(name, [DEVICE]), load_cloud(name, [IMAGE])
    wrong = [
        (str(cut), index)
        for cut in every_cut(3, 3)
        for index, (image, question) in enumerate(PROMPTS)
        if divided(device, cloud, image, question, cut) != expected[index]
    ]
    assert wrong == []


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_cut_gives_the_logits_of_generate(saved: Any, kind: str) -> None:
    """Sharper than tokens: a mask or a position that is a little wrong changes no token of a short answer."""
    name = saved(kind, None)
    model, processor = load_whole(name, threads=1)
    inputs = prompt_inputs(processor, Prompt.about(*PROMPTS[1]))
    wanted = {"output_logits": True, "return_dict_in_generate": True}
    expected = torch.cat(model.generate(**inputs, do_sample=False, max_new_tokens=NUM_TOKENS, **wanted).logits)
    device, cloud = load_device(name, [DEVICE]), load_cloud(name, [IMAGE])
    found = [logits_of(device), logits_of(cloud)]
    for cut in every_cut(3, 3):
        divided(device, cloud, *PROMPTS[1], cut)
        torch.testing.assert_close(torch.stack(found[cut != DEVICE]), expected, atol=1e-5, rtol=1e-5, msg=str(cut))
        found[cut != DEVICE].clear()


@pytest.mark.parametrize("kind", ["scenes-like", "gemma3"])
def test_bfloat16_is_exact_too(saved: Any, kind: str) -> None:
    name = saved(kind, None)
    model, processor = load_whole(name, dtype="bfloat16", threads=1)
    device, cloud = (
        load(name, cuts, dtype="bfloat16") for load, cuts in ((load_device, [DEVICE]), (load_cloud, [IMAGE]))
    )
    image, question = PROMPTS[1]
    expected = reference(model, processor, image, question)
    for cut in every_cut(3, 3):
        lossless = (
            None
            if cut in (IMAGE, DEVICE)
            else device.lower(Prompt.about(image, question), cut).boundary["hidden"].dtype
        )
        assert lossless in (None, torch.bfloat16)
        assert divided(device, cloud, image, question, cut) == expected, cut


@pytest.mark.parametrize("kind", FAMILIES)
def test_pictures_and_depth_matter(saved: Any, kind: str) -> None:
    """Otherwise the comparison above could not fail."""
    model, processor = load_whole(saved(kind, None))
    one, other = (prompt_inputs(processor, Prompt.about(picture(64, 64, seed), "What is this?")) for seed in (1, 2))
    with torch.inference_mode():
        first, second = model(**one).logits[0, -1], model(**other).logits[0, -1]
    assert (first - second).abs().max() > 1e-3
