"""Weights of a vision tower and connector in a variant's folder, under the names that they have in the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from splitvlm.model.families import family_of
from splitvlm.model.spec import TOWER_KINDS
from splitvlm.variants.manifest import WeightFiles

FILES = WeightFiles(file="model.safetensors", config="config.json")


def save_tower(folder: Path, model: Any, dtype: torch.dtype | None = None) -> int:
    """Writes the tower and connector of a whole model, and its configuration, as `FILES`; returns the number of parameters.

    They run in the dtype that they are stored in: `dtype`, or the model's own.
    """
    from safetensors.torch import save_file

    layout = family_of(model.config.model_type, str(folder)).layout
    tensors = {
        name: parameter.detach().to(device="cpu", dtype=dtype or parameter.dtype).contiguous()
        for name, parameter in model.named_parameters()
        if layout.stage_of(name)[0] in TOWER_KINDS
    }
    save_file(tensors, folder / FILES.file, metadata={"format": "pt"})
    (folder / FILES.config).write_text(model.config.to_json_string(), "utf-8")
    return sum(tensor.numel() for tensor in tensors.values())
