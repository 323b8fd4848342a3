"""A peer's boundary is checked before anything runs on it: every wrong one is a ProtocolError, never a crash."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch

from splitvlm.domain import DEVICE, IMAGE, Cut
from splitvlm.errors import ProtocolError
from splitvlm.model.boundary import Boundary
from splitvlm.model.loading import load_cloud, load_device
from splitvlm.model.parts import CloudPart, DevicePart
from splitvlm.model.prompt import Prompt
from tests.tiny_models import FAMILIES, picture, save

CUTS = [Cut.parse(text) for text in ("vision:1", "tokens", "lm:1")]


@cache
def parts(kind: str) -> tuple[DevicePart, CloudPart]:
    name = str(save(kind, Path(mkdtemp(prefix=f"splitvlm-{kind}-"))))
    return load_device(name, [DEVICE], threads=1), load_cloud(name, [IMAGE])


def spoiled(boundary: Boundary) -> Iterator[tuple[str, Boundary]]:
    """The boundary with one thing wrong at a time."""
    hidden = boundary["hidden"]
    yield "nothing", {}
    yield "one more tensor", boundary | {"extra": torch.zeros(1)}
    yield "not a number", boundary | {"hidden": hidden * float("nan")}
    yield "integers", boundary | {"hidden": hidden.long()}
    yield "narrow", boundary | {"hidden": hidden[..., 1:]}
    yield "empty", boundary | {"hidden": hidden[:0]}
    yield "another axis", boundary | {"hidden": hidden[None]}
    for name in set(boundary) - {"hidden"}:
        yield f"no {name}", {key: tensor for key, tensor in boundary.items() if key != name}
        yield f"{name} of another shape", boundary | {name: boundary[name][None]}
        yield f"{name} too large", boundary | {name: torch.full_like(boundary[name], 100) * 2}
        yield f"{name} as float", boundary | {name: boundary[name].float() + 0.5}
    if "ids" in boundary:
        for wrong in (-1, 10**9):
            ids = boundary["ids"].clone()
            ids[0] = wrong
            yield f"id {wrong}", boundary | {"ids": ids}
        yield "ids too long", boundary | {"ids": boundary["ids"][:1].repeat(5000)}
        yield "one image token more", boundary | {"ids": torch.cat([boundary["ids"], torch.tensor([300])])}


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("kind", FAMILIES)
def test_wrong_boundaries_are_refused(kind: str, cut: Cut) -> None:
    device, cloud = parts(kind)
    good = device.lower(Prompt.about(picture(64, 48), "How many?"), cut).boundary
    cloud.upper(cut, good, 1).first()
    for what, boundary in spoiled(good):
        with pytest.raises(ProtocolError):
            pytest.fail(f"{what}: {cloud.upper(cut, boundary, 1).first()}")


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "llava-onevision"])
def test_sizes_that_would_take_memory_are_refused(kind: str) -> None:
    device, cloud = parts(kind)
    good = device.lower(Prompt.about(picture(64, 48), "How many?"), CUTS[0]).boundary
    for wrong in ([1, 2**31, 2**31], [1, -4, -4], [0, 0, 0], [2**40, 1, 1]):
        name = "grid" if kind == "qwen2.5-vl" else "sizes"
        tensor = torch.tensor([wrong if name == "grid" else wrong[1:]])
        with pytest.raises(ProtocolError):
            cloud.upper(CUTS[0], good | {name: tensor}, 1)


def test_wrong_steps_are_refused() -> None:
    device, cloud = parts("scenes-like")
    lower = device.lower(Prompt.about(picture(64, 64), "How many?"), CUTS[2])
    run = cloud.upper(CUTS[2], lower.boundary, 4)
    step = lower.step(run.first())
    for wrong in (
        {},
        {"hidden": step["hidden"][0]},
        {"hidden": step["hidden"].repeat(2, 1)},
        step | lower.boundary,
        None,
    ):
        with pytest.raises(ProtocolError):
            run.next(wrong)
    run.next(step)
    shallow = cloud.upper(CUTS[1], device.lower(Prompt.about(picture(64, 64), "How many?"), CUTS[1]).boundary, 4)
    shallow.first()
    with pytest.raises(ProtocolError):
        shallow.next(step)
