"""Checks of a boundary that came from a peer, before anything runs on it: names, dtypes, shapes, ids and counts.

A wrong index would read foreign memory's error text at best and stop a GPU for everybody at worst; a wrong size would take
memory. Everything that passes here can be run. Raises ProtocolError, which names the tensor and never its values.
"""

from __future__ import annotations

import torch

from splitvlm.domain import TOKENS, Cut, CutKind
from splitvlm.errors import Forgotten, ProtocolError
from splitvlm.model.boundary import HIDDEN, IDS, TYPES, Boundary
from splitvlm.model.greedy import reads_prompt
from splitvlm.model.part import Part
from splitvlm.model.prefix import Prefix


def check_boundary(part: Part, cut: Cut, boundary: Boundary) -> None:
    """Of a prefill at vision:k, tokens or lm:k."""
    _check_names(part, cut, boundary)
    _check_hidden(part, cut, boundary[HIDDEN])
    image_tokens = _check_prompt(part, cut, boundary)
    if cut.kind is CutKind.TOKENS and image_tokens != boundary[HIDDEN].shape[0]:
        raise ProtocolError(f"The prompt has {image_tokens} places for {boundary[HIDDEN].shape[0]} visual tokens.")
    above_vision = None if cut.kind is CutKind.VISION else image_tokens
    if not part.family.check_sides(part.model, boundary, visual_tokens=above_vision):
        raise ProtocolError(f"The tensors at the cut {cut} do not fit one another.")


def check_tile(part: Part, cut: Cut, tile: Boundary, *, first: bool) -> None:
    """Of one tile of a prefill at vision:k or tokens; how many visual tokens come in all is not known by then."""
    if first:
        _check_names(part, cut, tile)
        _check_prompt(part, cut, tile)
    if set(tile) & set(part.family.optional_sides) or (not first and set(tile) != {HIDDEN}):
        raise ProtocolError("The parts of a boundary do not fit one another.")
    _check_hidden(part, cut, tile[HIDDEN])
    above_vision = None if cut.kind is CutKind.VISION else tile[HIDDEN].shape[0]
    if not part.family.check_sides(part.model, tile, visual_tokens=above_vision):
        raise ProtocolError(f"The tensors at the cut {cut} do not fit one another.")


def check_again(part: Part, prefix: Prefix, boundary: Boundary) -> None:
    """Of another question about a picture that is remembered. Raises Forgotten too, where the prompt begins otherwise."""
    if set(boundary) != {IDS} or boundary[IDS].ndim != 1:
        raise ProtocolError("Another question about a known picture needs the tensor ids, and no other.")
    image_tokens = _check_prompt(part, TOKENS, boundary)
    if not prefix.begins(boundary[IDS]) or image_tokens != int(
        (prefix.ids_P == part.model.config.image_token_id).sum()
    ):
        raise Forgotten("The prompt does not begin as the one did that brought the picture.", advice="Send it again.")


def check_step(part: Part, boundary: Boundary) -> None:
    """Of one token at lm:k."""
    if set(boundary) != {HIDDEN} or boundary[HIDDEN].shape != (1, part.spec.lm_hidden):
        raise ProtocolError("A step's tensors are not those of one token.")
    _check_float(boundary[HIDDEN])


def _check_names(part: Part, cut: Cut, boundary: Boundary) -> None:
    family = part.family
    needed, optional = {HIDDEN}, set[str]()
    if cut.kind is CutKind.VISION:
        needed |= {IDS, *family.vision_sides}
        optional |= set(family.optional_sides)
    else:
        needed |= set(family.language_sides)
        if cut.kind is CutKind.TOKENS or reads_prompt(part.model):
            needed |= {IDS}
        elif family.needs_types:
            needed |= {TYPES}
    if not needed <= set(boundary) <= needed | optional:
        raise ProtocolError(f"The cut {cut} needs the tensors {', '.join(sorted(needed))}.")


def _check_hidden(part: Part, cut: Cut, hidden: torch.Tensor) -> None:
    _check_float(hidden)
    vision = cut.kind is CutKind.VISION
    axes = part.family.states_axes if vision else 2
    width = part.spec.vision_hidden if vision else part.spec.lm_hidden
    if hidden.ndim != axes or hidden.shape[-1] != width or hidden.numel() == 0:
        raise ProtocolError(f"`hidden` has the wrong shape for the cut {cut}.")


def _check_prompt(part: Part, cut: Cut, boundary: Boundary) -> int:
    """Checks lengths and ids; returns the number of image tokens, 0 where nothing tells."""
    length = boundary[HIDDEN].shape[0] if cut.kind is CutKind.LM else len(boundary[IDS])
    for name in (IDS, TYPES):
        if name in boundary and boundary[name].shape != (length,):
            raise ProtocolError(f"`{name}` has the wrong shape for the cut {cut}.")
    if not 1 <= length < part.spec.max_context:
        raise ProtocolError(f"The prompt has {length} tokens, of {part.spec.max_context} that the model can read.")
    image_token = part.model.config.image_token_id
    if IDS in boundary:
        ids = boundary[IDS]
        known = (ids >= 0) & ((ids < part.spec.vocab_size) | (ids == image_token))
        if ids.dtype != torch.int64 or not bool(known.all()):
            raise ProtocolError("`ids` holds tokens that the model does not know.")
        return int((ids == image_token).sum())
    if TYPES in boundary:
        if boundary[TYPES].dtype != torch.uint8 or not bool((boundary[TYPES] <= 1).all()):
            raise ProtocolError("`types` holds other values than 0 and 1.")
        return int(boundary[TYPES].sum())
    return 0


def _check_float(hidden: torch.Tensor) -> None:
    if not hidden.is_floating_point() or not bool(torch.isfinite(hidden).all()):
        raise ProtocolError("`hidden` holds no finite numbers.")
