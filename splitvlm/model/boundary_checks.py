"""Checks of a boundary that came from a peer, before anything runs on it: names, dtypes, shapes, ids and counts.

A wrong index would read foreign memory's error text at best and stop a GPU for everybody at worst; a wrong size would take
memory. Everything that passes here can be run, and takes what an honest request takes. `check_shapes` reads no values: it
takes tensors without data too (`splitvlm.model.boundary`), before anything is decoded. Raises ProtocolError, which names the
tensor and never its values.
"""

from __future__ import annotations

import torch

from splitvlm.domain import MAX_IMAGES, Cut, CutKind
from splitvlm.errors import PrefixEvicted, ProtocolError
from splitvlm.model.boundary import GRID, HIDDEN, IDS, SIZES, TYPES, Boundary
from splitvlm.model.part import ModelPart
from splitvlm.model.prefix import Prefix, merged_sides
from splitvlm.model.sampling import reads_prompt


def check_shapes(part: ModelPart, cut: Cut, boundary: Boundary) -> None:
    """Checks the outline of a prefill at vision:k, tokens or lm:k: names, dtypes, and shapes that the model can read."""
    if not _is_text_alone(cut, boundary):
        _check_names(part, cut, boundary)
        _check_states(part, cut, boundary)
    _check_prompt_shape(part, cut, boundary)


def check_boundary(part: ModelPart, cut: Cut, boundary: Boundary) -> None:
    """Checks a decoded prefill at vision:k, tokens or lm:k. Raises ProtocolError."""
    check_shapes(part, cut, boundary)
    num_image_tokens = _check_ids(part, boundary)
    num_visual_tokens = num_image_tokens
    if cut.kind is not CutKind.LM:
        num_visual_tokens = _visual_tokens(part, cut, boundary) if HIDDEN in boundary else 0
    if num_visual_tokens != num_image_tokens:
        raise ProtocolError(f"The prompt has {num_image_tokens} places for {num_visual_tokens} visual tokens.")
    _check_sides(part, cut, boundary, num_image_tokens)
    if HIDDEN in boundary:
        _check_finite(boundary[HIDDEN])


def check_tile_shapes(part: ModelPart, cut: Cut, tile: Boundary, *, first: bool) -> None:
    """Checks the outline of one tile of a prefill at vision:k or tokens."""
    if first:
        _check_names(part, cut, tile)
        _check_prompt_shape(part, cut, tile)
    if set(tile) & set(part.family.optional_sides) or (not first and set(tile) != {HIDDEN}):
        raise ProtocolError("The parts of a boundary do not fit one another.")
    _check_states(part, cut, tile)


def check_tile(part: ModelPart, cut: Cut, tile: Boundary, *, first: bool) -> int:
    """Checks one decoded tile of a prefill at vision:k or tokens; returns how many visual tokens it becomes."""
    check_tile_shapes(part, cut, tile, first=first)
    if first:
        _check_ids(part, tile)
    _check_finite(tile[HIDDEN])
    return _visual_tokens(part, cut, tile)


def check_cached_prefix(part: ModelPart, prefix: Prefix, cut: Cut, boundary: Boundary) -> None:
    """Checks a decoded prompt of which `prefix` is cached: its whole `ids`, and what crosses of further images.

    Raises PrefixEvicted, too, where the prompt does not begin so.
    """
    check_shapes(part, cut, boundary)
    num_image_tokens = _check_ids(part, boundary)
    if not prefix.num_shared(boundary[IDS]):
        raise PrefixEvicted("The prompt does not begin as the cached one did.", advice="Send all of it.")
    num_visual_tokens = prefix.num_image_tokens
    if HIDDEN in boundary:
        num_visual_tokens += _visual_tokens(part, cut, boundary)
        _check_finite(boundary[HIDDEN])
    if num_visual_tokens != num_image_tokens:
        raise ProtocolError(f"The prompt has {num_image_tokens} places for {num_visual_tokens} visual tokens.")
    whole = boundary | merged_sides(part.family.language_sides, prefix.sides, boundary)
    _check_sides(part, cut, whole, num_image_tokens)


def check_step_shape(part: ModelPart, boundary: Boundary) -> None:
    """Checks the outline of one token at lm:k."""
    hidden = boundary.get(HIDDEN)
    is_state = hidden is not None and hidden.is_floating_point() and hidden.shape == (1, part.spec.lm_hidden)
    if len(boundary) != 1 or not is_state:
        raise ProtocolError("A step's tensors are not those of one token.")


def check_step(part: ModelPart, boundary: Boundary) -> None:
    """Checks one decoded token at lm:k. Raises ProtocolError."""
    check_step_shape(part, boundary)
    _check_finite(boundary[HIDDEN])


def _is_text_alone(cut: Cut, boundary: Boundary) -> bool:
    """Tells whether nothing but the prompt's ids crosses, which needs no image of it."""
    return cut.kind in (CutKind.VISION, CutKind.TOKENS) and set(boundary) == {IDS}


def _check_names(part: ModelPart, cut: Cut, boundary: Boundary) -> None:
    family = part.family
    needed, optional = {HIDDEN}, set[str]()
    if cut.kind is CutKind.VISION:
        needed |= {IDS, *family.vision_sides}
        optional |= set(family.optional_sides)
    else:
        optional |= set(family.language_sides)  # which text alone does not need
        if cut.kind is CutKind.TOKENS or reads_prompt(part.model):
            needed |= {IDS}
        elif family.needs_types:
            needed |= {TYPES}
    if not needed <= set(boundary) <= needed | optional:
        raise ProtocolError(f"The cut {cut} needs the tensors {', '.join(sorted(needed))}.")


def _check_states(part: ModelPart, cut: Cut, boundary: Boundary) -> None:
    hidden, vision = boundary[HIDDEN], cut.kind is CutKind.VISION
    axes = part.family.states_axes if vision else 2
    width = part.spec.vision_hidden if vision else part.spec.lm_hidden
    is_states = hidden.is_floating_point() and hidden.ndim == axes and hidden.shape[-1] == width and hidden.numel() > 0
    if not is_states or (not vision and hidden.shape[0] >= part.spec.max_context):
        raise ProtocolError(f"`hidden` has the wrong shape for the cut {cut}.")
    if vision and not part.family.check_states(part.model, boundary, part.spec.max_context):
        raise _unfit(cut)
    for name, width in {GRID: 3, SIZES: 2}.items():
        side = boundary.get(name)
        if side is not None and not (
            side.dtype == torch.int64 and side.ndim == 2 and 1 <= len(side) <= MAX_IMAGES and side.shape[1] == width
        ):
            raise ProtocolError(f"`{name}` has the wrong shape for the cut {cut}.")


def _check_prompt_shape(part: ModelPart, cut: Cut, boundary: Boundary) -> None:
    prompt_tensors = [boundary[name] for name in (IDS, TYPES) if name in boundary]
    length = boundary[HIDDEN].shape[0] if cut.kind is CutKind.LM else prompt_tensors[0].numel()
    for name, dtype in ((IDS, torch.int64), (TYPES, torch.uint8)):
        if name in boundary and (boundary[name].shape != (length,) or boundary[name].dtype != dtype):
            raise ProtocolError(f"`{name}` has the wrong shape for the cut {cut}.")
    if not 1 <= length < part.spec.max_context:
        raise ProtocolError(f"The prompt has {length} tokens, of {part.spec.max_context} that the model can read.")


def _check_ids(part: ModelPart, boundary: Boundary) -> int:
    """Returns the number of image tokens in the prompt, 0 where nothing tells; checks the values of `ids` and `types`."""
    image_token = part.model.config.image_token_id
    if IDS in boundary:
        ids = boundary[IDS]
        known = (ids >= 0) & ((ids < part.spec.vocab_size) | (ids == image_token))
        if not bool(known.all()):
            raise ProtocolError("`ids` holds tokens that the model does not know.")
        return int((ids == image_token).sum())
    if TYPES in boundary:
        if not bool((boundary[TYPES] <= 1).all()):
            raise ProtocolError("`types` holds other values than 0 and 1.")
        return int(boundary[TYPES].sum())
    return 0


def _visual_tokens(part: ModelPart, cut: Cut, boundary: Boundary) -> int:
    """Returns how many visual tokens a boundary at vision:k or tokens brings."""
    if cut.kind is CutKind.TOKENS:
        return boundary[HIDDEN].shape[0]
    num_visual_tokens = part.family.visual_tokens(part.model, boundary)
    if num_visual_tokens is None:
        raise _unfit(cut)
    return num_visual_tokens


def _check_sides(part: ModelPart, cut: Cut, boundary: Boundary, num_image_tokens: int) -> None:
    """Checks what the language model needs beside the visual tokens, where there are any."""
    family = part.family
    is_there = set(family.language_sides) <= set(boundary)
    if num_image_tokens and not (is_there and family.check_sides(part.model, boundary, num_image_tokens)):
        raise _unfit(cut)


def _check_finite(hidden: torch.Tensor) -> None:
    if not bool(torch.isfinite(hidden).all()):
        raise ProtocolError("`hidden` holds no finite numbers.")


def _unfit(cut: Cut) -> ProtocolError:
    return ProtocolError(f"The tensors at the cut {cut} do not fit one another.")
