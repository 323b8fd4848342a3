"""The tensors that cross at a cut, by name. Nothing else may be needed to run the rest of the model.

Float tensors are coded by the codec level; integer tensors always cross losslessly. Batch is 1 everywhere and is squeezed
away where the model has it as an axis of its own. What is constant or follows from other tensors is left out.

    name    dtype   shape            at the cuts
    hidden  float   [N, P, D]        vision:k: states of N tiles (or crops) of P patches; Qwen2.5-VL: [P, D]
                    [V, D]           tokens: visual tokens in the order of their places in the prompt
                    [T, D], [1, D]   lm:k: states of the prompt, then of each new token
    ids     int64   [T]              vision:k, tokens: the prompt; lm:k only where a rule of token choice reads the prompt
    types   uint8   [T]              lm:k without ids: 1 where an image token stands (Qwen2.5-VL, Gemma 3)
    grid    int64   [N, 3]           Qwen2.5-VL: patches in time, height, width
    patches uint8   [N, H, W]        Idefics3, vision:k, only where some tile is padded: 1 where a patch is real
    sizes   int64   [N, 2]           LLaVA-OneVision, vision:k: height and width of the picture in pixels

The codec works on numpy arrays: `to_arrays` and `to_tensors` are the door between it and torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from splitvlm.codec.boundary import TensorOutline
from splitvlm.codec.dtypes import Array, Arrays
from splitvlm.errors import ProtocolError

Boundary = dict[str, torch.Tensor]

HIDDEN = "hidden"
IDS = "ids"
TYPES = "types"
GRID = "grid"
PATCHES = "patches"
SIZES = "sizes"


def boundary_bytes(boundary: Boundary) -> int:
    """Returns the bytes of the boundary's tensors in memory, before any coding."""
    return sum(tensor.nbytes for tensor in boundary.values())


def joined(tiles: Sequence[Boundary]) -> Boundary:
    """Returns one boundary of its tiles: the first's tensors, `hidden` of all. Raises ProtocolError where they do not fit."""
    first, *others = tiles
    if not others:
        return first
    shape, dtype = first[HIDDEN].shape if HIDDEN in first else (), first.get(HIDDEN, torch.empty(0)).dtype
    for tile in others:
        if set(tile) != {HIDDEN} or tile[HIDDEN].dtype != dtype or tile[HIDDEN].shape[1:] != shape[1:] or not shape:
            raise ProtocolError("The parts of a boundary do not fit one another.")
    return first | {HIDDEN: torch.cat([tile[HIDDEN] for tile in tiles])}


def to_arrays(boundary: Boundary) -> Arrays:
    """Returns the tensors as the codec takes them: arrays in the host's memory, which they share where they are there."""
    return {name: _array(tensor.detach().cpu()) for name, tensor in boundary.items()}


def to_tensors(decoded: Arrays) -> Boundary:
    """Returns what the codec decoded as tensors, which share its memory."""
    return {name: _tensor(array) for name, array in decoded.items()}


def without_data(outline: Mapping[str, TensorOutline]) -> Boundary:
    """Returns tensors on the device "meta" of the outline's dtypes and shapes, which the checks of shapes read."""
    return {
        name: torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype), device="meta")
        for name, tensor in outline.items()
    }


def _array(tensor: torch.Tensor) -> Array:
    array: Array = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _tensor(array: Array) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
