"""The kinds of variants that are exported stages: float32, int8 (static, dynamic) and int4 weights, all of them ONNX.

    onnx           float32 weights; computes in float32, or in bfloat16 where the back end can
    int8-static    products in 8 bits; ranges of states from sample pictures; sensitive layers keep float32
    int8-dynamic   products in 8 bits; each run finds the ranges of its own states
    int4-weights   weights in blocks of 4 bits; products in floating point or, where the back end can, in 8 bits

Embeddings of patches and positions are stored in 8 bits and compute in float32. OpenVINO and ONNX Runtime read these files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from splitvlm.backends.catalogue import open_stage
from splitvlm.backends.stage import PIXELS, PRECISIONS
from splitvlm.codec.calibration_file import FILE as CALIBRATION_FILE
from splitvlm.domain import DEVICE, TOKENS
from splitvlm.errors import UsageError
from splitvlm.model.loading import load_device, load_tower
from splitvlm.model.parts import DevicePart
from splitvlm.model.prompt import Prompt
from splitvlm.node.progress import show_progress
from splitvlm.scenes.samples import samples
from splitvlm.variants import export, graph, observing, sensitivity
from splitvlm.variants.folder import Made, read_variant
from splitvlm.variants.making import Making, Option
from splitvlm.variants.manifest import StageFile
from splitvlm.variants.quantised_graphs import in_blocks, with_dynamic_ranges, with_ranges

FILE = "tower.onnx"
CHECKED = 3  # pictures that the exported file is compared with torch on
OF: Mapping[str, Option] = {"of": ""}
"""Folder of a variant with weights (a student, say) whose tower is exported in place of the model's own."""
ONNX_OPTIONS: Mapping[str, Option] = {"precision": "float32", **OF}
STATIC_OPTIONS: Mapping[str, Option] = {"judged": 16, "kept": 0.02, **OF}
"""Questions that judge sensitivity (0 keeps no layer in float32), and the largest share of weights in float32."""
DYNAMIC_OPTIONS = OF
INT4_OPTIONS: Mapping[str, Option] = {"block": 32, **OF}

Quantise = Callable[[Any], Any]


@dataclass(frozen=True)
class _Exported:
    """Holds a model's whole part, its tower as a module, the sample questions, and the exported file."""

    part: DevicePart
    module: nn.Module
    asked: list[dict[str, torch.Tensor]]
    path: Path
    made_of: Mapping[str, object]  # the variant whose tower it is

    def tiles(self, most: int) -> list[torch.Tensor]:
        """Returns the pixels of the first `most` sample pictures, [N, 3, H, W] each."""
        return [self.part.family.tile_pixels(inputs) for inputs in self.asked[:most]]


def make_onnx(making: Making) -> Made:
    """Exports the tower and connector; the option says in which precision they compute. Raises UsageError."""
    precision = str(making.options["precision"])
    if precision not in PRECISIONS:
        raise UsageError(f"'{precision}' is not a precision.", advice=f"Use {' or '.join(PRECISIONS)}.")
    exported = _exported(making)
    onnx_graph = graph.read_graph(exported.path)
    parameters = _parameters(exported)
    graph.write_graph(onnx_graph, exported.path)
    return _made(exported, precision, parameters, {})


def make_int8_static(making: Making) -> Made:
    """Quantises with ranges from the samples; the layers that the answers depend on most keep float32. Raises UsageError."""
    exported = _exported(making, making.samples)
    tiles = exported.tiles(len(exported.asked))
    with show_progress("Ranges of states") as told:
        observed = observing.observe(exported.module, tiles, lambda done: told(done, len(tiles)))
    layers = observing.linear_layers(exported.module)
    divergences = _sensitivities(exported, observed, int(making.options["judged"]))
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    most_weights = int(float(making.options["kept"]) * sum(sizes.values()))
    kept = sensitivity.kept_layers(divergences, sizes, most_weights)
    figures = {
        "kept_float32": list(kept),
        "sensitivity_nats": {name: float(f"{value:.3g}") for name, value in divergences.items()},
        "outlier_channels": {name: outliers for name in observed if (outliers := observed[name].outliers())},
    }
    ranges = {name: entry for name, entry in observed.items() if name not in kept}
    return _quantised(exported, "int8", lambda model: with_ranges(model, ranges), figures)


def _sensitivities(exported: _Exported, observed: Mapping[str, observing.Observed], judged: int) -> dict[str, float]:
    """Returns how much each layer matters to the answers of `judged` questions; nothing where there are none."""
    if not judged:
        return {}
    with show_progress("Sensitivity of layers") as told:
        return sensitivity.sensitivities(
            exported.part,
            exported.module,
            observed,
            exported.asked[:judged],
            lambda done: told(done, len(observed)),
        )


def make_int8_dynamic(making: Making) -> Made:
    """Quantises weights, and states at each run. Raises UsageError."""
    return _quantised(_exported(making), "int8", with_dynamic_ranges, {})


def make_int4_weights(making: Making) -> Made:
    """Stores weights in blocks of 4 bits. Raises UsageError."""
    block = int(making.options["block"])
    return _quantised(_exported(making), "int4", lambda model: in_blocks(model, block), {})


def _exported(making: Making, num_samples: int = CHECKED) -> _Exported:
    """Exports the tower; prepares the samples that the kind needs, at least those that the file is checked with."""
    part, made_of = _part(making)
    module, shape = export.stage_module(part)
    questions = islice(_questions(making, num_samples), num_samples)
    asked = [part.inputs(Prompt.about(image, question)) for image, question in questions]
    exported = _Exported(part, module, asked, making.folder / FILE, made_of)
    export.export_stage(module.float(), shape, exported.path)
    export.check_export(exported.path, module, torch.cat(exported.tiles(CHECKED)).numpy())
    return exported


def _part(making: Making) -> tuple[DevicePart, dict[str, object]]:
    """Returns the whole model with the tower that is exported, and what is to be told of it. Raises UsageError."""
    if not making.options["of"]:
        return load_device(making.model, [DEVICE], packed=False), {}
    variant = read_variant(Path(str(making.options["of"])), making.bundle.spec)
    if variant.manifest.weights is None:
        raise UsageError(
            f"{variant.folder} holds no weights to export.", advice="Name a variant that was not exported."
        )
    if variant.has_own_codec:
        shutil.copy(variant.folder / CALIBRATION_FILE, making.folder / CALIBRATION_FILE)
    part = load_device(making.model, [DEVICE], packed=False, with_tower=False)
    tower = load_tower(variant.folder, part, packed=False)
    return part.with_tower(lambda: tower, variant.cuts), {"of": {"name": variant.name, "hash": variant.hash}}


def _questions(making: Making, num_samples: int) -> Iterator[tuple[Image.Image, str]]:
    if making.data is None:
        return samples(num_samples, making.model, seed=making.seed)
    from splitvlm.evaluation.answers import read

    return ((example.image, example.question) for example in read(making.data, num_samples))


def _quantised(exported: _Exported, precision: str, quantise: Quantise, figures: Mapping[str, object]) -> Made:
    parameters = _parameters(exported)
    model = quantise(graph.read_graph(exported.path))
    graph.store_embeddings(model)
    graph.write_graph(model, exported.path)
    return _made(exported, precision, parameters, figures)


def _made(exported: _Exported, precision: str, parameters: int, figures: Mapping[str, object]) -> Made:
    pixels = torch.cat(exported.tiles(CHECKED)).numpy()
    wanted = export.torch_tokens(exported.module, pixels)
    tokens = open_stage(exported.path, "onnxruntime").run({PIXELS: pixels})
    error = export.agreement(tokens, wanted)
    check = {"pictures": CHECKED, "largest_error": round(error.largest, 6), "rms_error": round(error.rms, 6)}
    stage = StageFile(file=FILE, format="onnx", precision=precision)
    return Made((TOKENS, DEVICE), parameters, stage=stage, how={**exported.made_of, **figures, "check": check})


def _parameters(exported: _Exported) -> int:
    return sum(parameter.numel() for parameter in exported.module.parameters())
