"""Every family refuses a peer's boundary of wrong sizes or counts before anything is computed from it.

The law: a boundary of sizes that the model cannot make is refused by its outline, before it is decoded; one whose counts do not
fit the prompt or one another is refused before a layer runs.
"""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

from splitvlm.codec.codec import Codec
from splitvlm.domain import DEVICE, IMAGE, Cut, CutKind
from splitvlm.errors import ProtocolError
from splitvlm.model.boundary import Boundary, to_arrays, without_data
from splitvlm.model.boundary_checks import check_shapes, check_step_shape, check_tile_shapes
from splitvlm.model.loading import load_cloud, load_device
from splitvlm.model.parts import CloudPart, DevicePart
from splitvlm.model.prompt import Prompt
from splitvlm.model.tiles import in_tiles
from tests.samples import tiny_model
from tests.tiny_models import FAMILIES, picture

CUTS = [Cut.parse(text) for text in ("vision:1", "vision:3", "tokens", "lm:1", "lm:3")]
MOST_ELEMENTS = 15 << 20  # below the limits of the codec: what a few hundred bytes may ask for
FLAT_BYTES = 1 << 20
IMAGE_TOKEN = 300


@cache
def parts(kind: str) -> tuple[DevicePart, CloudPart]:
    folder = tiny_model(kind)
    return load_device(folder, [DEVICE], threads=1), load_cloud(folder, [IMAGE])


@cache
def good(kind: str, cut: Cut) -> Boundary:
    return parts(kind)[0].lower(Prompt.about(picture(64, 48), "How many?"), cut).boundary


@contextlib.contextmanager
def nothing_runs(part: CloudPart) -> Iterator[None]:
    """Fails where a layer of the tower or of the language model is entered."""

    def refuse(module: Any, given: Any) -> None:
        pytest.fail("a layer ran")

    layers = [*part.family.vision_layers(part.model), *part.family.stack(part.model).layers]  # type: ignore[misc]
    hooks = [layer.register_forward_pre_hook(refuse) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def zeros(*shape: int) -> torch.Tensor:
    """Large, and a few bytes when coded."""
    return torch.zeros(shape)


def sizes_that_no_tower_makes(kind: str, cut: Cut) -> Iterator[tuple[str, Boundary]]:
    boundary = good(kind, cut)
    hidden = boundary["hidden"]
    width = hidden.shape[-1]
    most = MOST_ELEMENTS // width
    if cut.kind is not CutKind.VISION:
        yield "more states than a prompt has room for", boundary | {"hidden": zeros(most, width)}
    elif hidden.ndim == 2:
        yield "more patches than a prompt has room for", boundary | {"hidden": zeros(most - most % 4, width)}
        yield "patches that do not merge", boundary | {"hidden": zeros(hidden.shape[0] + 1, width)}
    else:
        tiles, patches, _ = hidden.shape
        side = int(most**0.5) // 2 * 2
        yield "one huge square tile", boundary | {"hidden": zeros(1, side * side, width)}
        yield "the next square", boundary | {"hidden": zeros(tiles, (int(patches**0.5) + 2) ** 2, width)}
        yield "more tiles than a prompt has room for", boundary | {"hidden": zeros(most // patches, patches, width)}
        yield "half a tile", boundary | {"hidden": zeros(tiles, patches // 2, width)}
    if "ids" in boundary:
        yield "a prompt that is too long", boundary | {"ids": torch.full((1_000_000,), IMAGE_TOKEN)}
    for name in set(boundary) - {"hidden", "ids"}:
        yield f"{name} too many", boundary | {name: boundary[name].repeat(100_000, *[1] * (boundary[name].ndim - 1))}
    yield "a tensor of another cut", boundary | {"residual": zeros(most, width)}
    if kind in ("idefics3", "scenes-like") and cut.kind is CutKind.VISION:
        tiles, patches, _ = hidden.shape
        yield "a mask of other tiles", boundary | {"patches": torch.ones(tiles + 1, 4, patches // 4, dtype=torch.uint8)}
        yield "a mask of floats", boundary | {"patches": torch.ones(tiles, 4, patches // 4)}


def counts_that_do_not_fit(kind: str, cut: Cut) -> Iterator[tuple[str, Boundary]]:
    boundary = good(kind, cut)
    hidden = boundary["hidden"]
    if cut.kind is not CutKind.LM:
        ids = boundary["ids"]
        fewer = torch.cat([ids[: int((ids == IMAGE_TOKEN).nonzero()[0])], ids[ids != IMAGE_TOKEN][-3:]])
        yield "one place more", boundary | {"ids": torch.cat([ids, torch.tensor([IMAGE_TOKEN])])}
        yield "no place at all", boundary | {"ids": fewer}
        per = 4 if hidden.ndim == 2 and cut.kind is CutKind.VISION else 1
        yield "twice the states", boundary | {"hidden": torch.cat([hidden, hidden])}
        if hidden.shape[0] > per:
            yield "states are missing", boundary | {"hidden": hidden[:-per]}
    if "grid" in boundary:
        for grid in ([1, 2, 2], [2, 2, 2], [1, -2, -2], [1, 2**31, 2**31], [0, 0, 0]):
            yield f"the grid {grid}", boundary | {"grid": torch.tensor([grid])}
    if "sizes" in boundary:
        for size in ([1, 60_000], [0, 0], [-5, 5], [2**40, 1], [100, 20]):
            yield f"the size {size}", boundary | {"sizes": torch.tensor([size])}
    if "types" in boundary and kind == "qwen2.5-vl":  # whose positions follow one picture in one piece
        yield "scattered image tokens", boundary | {"types": 1 - boundary["types"]}


def outlined(cut: Cut, boundary: Boundary) -> Boundary:
    """What is known of a coded boundary before it is decoded."""
    codec = Codec()
    return without_data(codec.outline(cut, codec.encode(cut, to_arrays(boundary), "lossless")))


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("kind", FAMILIES)
def test_sizes_that_no_tower_makes_are_refused_by_the_outline(kind: str, cut: Cut) -> None:
    codec, (_, cloud) = Codec(), parts(kind)
    check_shapes(cloud, cut, outlined(cut, good(kind, cut)))
    for what, boundary in sizes_that_no_tower_makes(kind, cut):
        payload = codec.encode(cut, to_arrays(boundary), "lossless")
        tracemalloc.start()
        try:
            with pytest.raises(ProtocolError):
                pytest.fail(f"{what}: {check_shapes(cloud, cut, without_data(codec.outline(cut, payload)))}")
            assert tracemalloc.get_traced_memory()[1] < FLAT_BYTES + len(payload), what
        finally:
            tracemalloc.stop()
        with nothing_runs(cloud), pytest.raises(ProtocolError):
            pytest.fail(f"{what}: {cloud.upper(cut, boundary, 1)}")


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("kind", FAMILIES)
def test_counts_that_do_not_fit_are_refused_before_a_layer_runs(kind: str, cut: Cut) -> None:
    _, cloud = parts(kind)
    cloud.upper(cut, good(kind, cut), 1).first()
    with nothing_runs(cloud):
        for what, boundary in counts_that_do_not_fit(kind, cut):
            with pytest.raises(ProtocolError):
                pytest.fail(f"{what}: {cloud.upper(cut, boundary, 1).first()}")


@pytest.mark.parametrize("cut", [Cut.parse("vision:1"), Cut.parse("tokens")], ids=str)
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_tile_is_refused_before_the_tower_sees_it(kind: str, cut: Cut) -> None:
    device, cloud = parts(kind)
    lower = device.lower(Prompt.about(picture(64, 48), "How many?"), cut)
    tiles = [lower.tile(place) for place in range(lower.num_tiles)]
    check_tile_shapes(cloud, cut, tiles[0], first=True)
    check_tile_shapes(cloud, cut, {"hidden": tiles[0]["hidden"]}, first=False)
    for what, boundary in sizes_that_no_tower_makes(kind, cut):
        if not what.startswith(("half", "patches that")):
            outline = outlined(cut, boundary)
            with pytest.raises(ProtocolError):
                pytest.fail(f"{what}: {check_tile_shapes(cloud, cut, outline, first=True)}")
    run = in_tiles(cloud, cut, tiles[0], 1)
    if run is None:
        return
    run.begin()
    for tile in tiles[1:]:
        run.add(tile)
    with nothing_runs(cloud), pytest.raises(ProtocolError, match="fewer than visual tokens"):
        run.add({"hidden": tiles[0]["hidden"]})


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_small_by_law_may_not_be_large(kind: str) -> None:
    """A step of one token, and another question about a picture whose prefix is cached."""
    _, cloud = parts(kind)
    cut, width = Cut.parse("lm:1"), cloud.spec.lm_hidden
    for step in ({"hidden": zeros(MOST_ELEMENTS // width, width)}, {"hidden": zeros(1, width), "x": zeros(1 << 20)}):
        with pytest.raises(ProtocolError):
            check_step_shape(cloud, outlined(cut, step))
    for prompt in ({"ids": torch.zeros(1 << 22, dtype=torch.int64)}, {"ids": torch.zeros(4)}, {"hidden": zeros(1, 1)}):
        with pytest.raises(ProtocolError):
            check_shapes(cloud, Cut.parse("tokens"), outlined(Cut.parse("tokens"), prompt))
