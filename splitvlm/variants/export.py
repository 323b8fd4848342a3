"""Exports a model's tower and connector to ONNX, for any number of tiles, and compares the file with torch.

Source: torch.onnx.export with `dynamo=True`; opset 21 is the first with blocks of 4-bit weights.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from splitvlm.backends.catalogue import open_stage
from splitvlm.backends.stage import PIXELS, TOKENS, StageShape
from splitvlm.errors import UsageError, first_sentence
from splitvlm.model.prompt import Prompt

if TYPE_CHECKING:
    import torch
    from torch import nn

    from splitvlm.model.parts import DevicePart

OPSET = 21
MOST_ERROR = (
    1e-4  # of an exported float32 stage, relative to the largest visual token: sums are rounded in another order
)
_MOST_TILES = 1_024  # that are exported for; far more than a picture becomes


@dataclass(frozen=True, slots=True)
class Agreement:
    """Tells how far a stage's visual tokens are from those of torch in float32, over some tiles."""

    largest: float  # of all differences, relative to the largest value
    rms: float  # of the differences, relative to that of the values


def stage_module(part: DevicePart) -> tuple[nn.Module, StageShape]:
    """Returns a part's tower and connector as one module, and its shape for one tile. Raises UsageError.

    To be exported, its weights must be plain: `load_device(..., packed=False)`.
    """
    import torch

    from splitvlm.model.tower import TorchTower

    tower = part.tower
    assert isinstance(tower, TorchTower), "only torch's own modules can be exported"
    module = part.family.tile_module(tower.model).eval()
    edge_px = blank_tile(part).shape[-1]
    blank = torch.zeros((1, 3, edge_px, edge_px), device=part.device, dtype=tower.model.dtype)
    with torch.inference_mode():
        tokens_1VD = module(blank)
    return module, StageShape((edge_px, edge_px), *tokens_1VD.shape[1:])


def blank_tile(part: DevicePart) -> torch.Tensor:
    """Returns the pixels [1, 3, H, W] of one tile of a grey picture, as the model's processor makes them."""
    from PIL import Image

    return part.family.tile_pixels(
        part.inputs(Prompt.about(Image.new("RGB", (64, 64), (128, 128, 128)), "What is this?"))
    )[:1]


def export_stage(module: nn.Module, shape: StageShape, path: Path) -> None:
    """Writes the module as ONNX with a dynamic number of tiles. Raises UsageError where torch cannot export it."""
    import torch

    pixels = torch.zeros((2, 3, *shape.edge_px), dtype=next(module.parameters()).dtype)
    tiles = torch.export.Dim("tiles", min=1, max=_MOST_TILES)
    try:
        with quiet_libraries(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (pixels,),
                dynamo=True,
                verbose=False,
                input_names=[PIXELS],
                output_names=[TOKENS],
                dynamic_shapes=({0: tiles},),
                opset_version=OPSET,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UsageError(
            f"torch does not export this tower: {first_sentence(error)}",
            advice="Use the back end `torch` for this model.",
        ) from error
    assert program is not None, "dynamo's exporter returns a program"
    program.save(path)


def agreement(stage_tokens_VD: NDArray[np.float32], torch_tokens_VD: NDArray[np.float32]) -> Agreement:
    """Returns how far visual tokens are from the reference."""
    difference = stage_tokens_VD - torch_tokens_VD
    scale = float(np.abs(torch_tokens_VD).max())
    rms = float(np.sqrt(np.square(difference).mean()) / np.sqrt(np.square(torch_tokens_VD).mean()))
    return Agreement(float(np.abs(difference).max()) / scale, rms)


def check_export(path: Path, module: nn.Module, pixels_NCHW: NDArray[np.float32]) -> Agreement:
    """Returns how far the exported file is from the module on these tiles. Raises UsageError beyond `MOST_ERROR`."""
    error = agreement(open_stage(path, "onnxruntime").run({PIXELS: pixels_NCHW}), torch_tokens(module, pixels_NCHW))
    if error.largest > MOST_ERROR:
        raise UsageError(
            f"The exported stage differs from torch by {error.largest:.2g} of the largest visual token, "
            f"and at most {MOST_ERROR:.2g} is rounding.",
            advice="Report this model: its tower has an operation that is exported wrongly.",
        )
    return error


def torch_tokens(module: nn.Module, pixels_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the module's visual tokens [V, D] of the tiles, one tile after another."""
    import torch

    weight = next(module.parameters())
    with torch.inference_mode():
        tiles = [
            module(torch.from_numpy(pixels_NCHW[index : index + 1]).to(weight.device, weight.dtype))[0]
            for index in range(len(pixels_NCHW))
        ]
    tokens_VD: NDArray[np.float32] = torch.cat(tiles).float().cpu().numpy()
    return tokens_VD


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps back what exporters and quantisers tell their developers: missing torchvision, deprecated calls of their own."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
