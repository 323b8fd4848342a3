"""LoRA adapters that a user brings, in Hugging Face PEFT's format: merged into the weights as they are loaded.

A model with an adapter is named MODEL+FOLDER, wherever a model is named: `scenes+adapters/orchard`. Each part of a divided
model merges what belongs to its own layers, so that an adapter needs no memory and no time of its own. What cannot be merged
exactly (DoRA, trained biases, whole modules that were saved beside) is refused by name.

Source: Hu et al., arXiv 2106.09685; peft/tuners/lora/layer.py and peft/utils/other.py, `get_pattern_key`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from splitvlm.errors import UsageError
from splitvlm.files.hashes import file_hash
from splitvlm.model.checkpoint import opened
from splitvlm.model.folders import read_object
from splitvlm.model.sources import Source

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_UNKNOWN = ("use_dora", "fan_in_fan_out", "lora_bias", "use_qalora", "alora_invocation_tokens", "arrow_config")
"""Settings of PEFT that change what an adapter computes, in ways that are not merged here."""


class Adapter:
    """Reads an adapter's folder: what it adds to each weight of its base. Raises UsageError for what is not merged here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / CONFIG).is_file():
            raise UsageError(f"{folder} is no adapter: there is no {CONFIG}.", advice="Name a folder that PEFT saved.")
        if not (folder / WEIGHTS).is_file():
            raise UsageError(
                f"{folder} holds no {WEIGHTS}.", advice="Save the adapter as safetensors; pickles are not read."
            )
        self._settings = read_object(folder / CONFIG)
        self._check_settings()

    @property
    def files(self) -> tuple[Path, Path]:
        """Returns the files that decide what it adds."""
        return self.folder / CONFIG, self.folder / WEIGHTS

    @cached_property
    def _pairs(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Returns A [R, inputs] and B [outputs, R] of each weight, by the weight's name in the whole model."""
        with opened(self.folder / WEIGHTS) as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a mapping)
        modules = {name.removesuffix(end) for name in tensors for end in (_A, _B) if name.endswith(end)}
        left_over = sorted(name for name in tensors if not name.endswith((_A, _B)) or not name.startswith(_PREFIX))
        left_over += sorted(module for module in modules if {module + _A, module + _B} - tensors.keys())
        if left_over:
            raise UsageError(
                f"The adapter in {self.folder} holds {left_over[0]}, which is not half of a pair of lora_A and lora_B.",
                advice="Only LoRA of linear layers is merged: no biases, embeddings or modules_to_save.",
            )
        return {
            f"{module.removeprefix(_PREFIX)}.weight": (tensors[module + _A], tensors[module + _B])
            for module in sorted(modules)
        }

    def check(self, model: Any) -> None:
        """Raises UsageError that names the first weight which the model lacks or which has another shape there."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, (a_RI, b_OR) in self._pairs.items():
            wanted = (b_OR.shape[0], a_RI.shape[1])
            if name not in parameters:
                raise self._misfit(f"it changes {name}, which the model does not have")
            if tuple(parameters[name].shape) != wanted or a_RI.shape[0] != b_OR.shape[1]:
                shape = list(parameters[name].shape)
                raise self._misfit(f"it adds {list(wanted)} to {name}, which has the shape {shape}")

    def merged(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Returns a weight of the base with what the adapter adds to it, in float32; others as they are."""
        if name not in self._pairs:
            return weight
        a_RI, b_OR = (tensor.to(weight.device) for tensor in self._pairs[name])
        return weight.float() + self._scale(name, len(a_RI)) * (b_OR @ a_RI)

    def _scale(self, name: str, rank: int) -> float:
        module = name.removesuffix(".weight")
        patterns: dict[str, float] = self._settings.get("alpha_pattern") or {}
        matching = [value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)]
        alpha = float(matching[0] if matching else self._settings.get("lora_alpha", 8))
        return alpha / (math.sqrt(rank) if self._settings.get("use_rslora") else rank)

    def _check_settings(self) -> None:
        settings = self._settings
        kind = settings.get("peft_type")
        if kind != "LORA":
            raise UsageError(f"The adapter in {self.folder} is of the kind {kind}.", advice="Only LORA is merged here.")
        unknown = [name for name in _UNKNOWN if settings.get(name)]
        unknown += ["bias"] if settings.get("bias", "none") != "none" else []
        unknown += ["modules_to_save"] if settings.get("modules_to_save") else []
        if unknown:
            raise UsageError(
                f"The adapter in {self.folder} was trained with {unknown[0]}, which is not merged here.",
                advice="Merge it with peft (merge_and_unload), save the whole model and name that folder.",
            )

    def _misfit(self, what: str) -> UsageError:
        return UsageError(
            f"The adapter in {self.folder} does not fit this model: {what}.",
            advice=f"It was trained on {self._settings.get('base_model_name_or_path') or 'another model'}.",
        )


class AdaptedSource(Source):
    """Gives a base's files and weights with an adapter merged into them. Its hash is of both."""

    def __init__(self, base: Source, adapter: Adapter) -> None:
        self._base = base
        self._adapter = adapter
        self.random_weights = base.random_weights
        self.folder = getattr(base, "folder", None)

    @property
    def config(self) -> Any:
        """Returns the base's configuration."""
        return self._base.config

    def processor(self) -> Any:
        """Returns the base's processor. Raises UsageError."""
        return self._base.processor()

    def generation_config(self, model: Any) -> Any:
        """Returns the base's generation config. Raises UsageError."""
        return self._base.generation_config(model)

    def check(self, model: Any, needed: set[str]) -> None:
        """Compares the base and the adapter with the skeleton. Raises UsageError."""
        self._base.check(model, needed)
        self._adapter.check(model)

    def tensors(self, model: Any, wanted: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the wanted parameters, merged."""
        return ((name, self._adapter.merged(name, weight)) for name, weight in self._base.tensors(model, wanted))

    def whole(self, device: torch.device, dtype: torch.dtype) -> Any:
        """Returns the undivided model, merged in float32 as its parts are."""
        model = self._base.whole(device, torch.float32)
        for name, parameter in model.named_parameters():
            parameter.data = self._adapter.merged(name, parameter.data)
        return model.to(dtype)

    def hashes(self) -> tuple[str, str]:
        """Returns SHA-256 of the base's weights with the adapter's files, and of the base's processor."""
        weights, processor = self._base.hashes()
        lines = [weights, *(file_hash(path) for path in self._adapter.files)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest(), processor
