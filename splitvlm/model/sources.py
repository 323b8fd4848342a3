"""A source is a folder of files or a shape. It gives a model's config, processor, tensors by name, and hashes."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from splitvlm.errors import UsageError, first_sentence
from splitvlm.files.hashes import file_hash
from splitvlm.model.checkpoint import matched, opened, weight_files
from splitvlm.model.families import family_of
from splitvlm.model.folders import check_folder, read_object
from splitvlm.model.skeleton import build_skeleton, tied_names
from splitvlm.model.spec import ModelSpec, StageParameters


class Source(ABC):
    """Gives one model's files and weights. What is loaded from it is the same, whichever parts are asked for."""

    random_weights = False

    @property
    @abstractmethod
    def config(self) -> Any:
        """Returns transformers' config of the model."""

    @abstractmethod
    def processor(self) -> Any:
        """Returns the processor of the model. Raises UsageError."""

    @abstractmethod
    def generation_config(self, model: Any) -> Any:
        """Returns the generation config for `model`. Raises UsageError."""

    @abstractmethod
    def check(self, model: Any, needed: set[str]) -> None:
        """Compares what is stored with the skeleton `model`, which needs the parameters `needed`. Raises UsageError."""

    @abstractmethod
    def tensors(self, model: Any, wanted: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Returns the wanted parameters, one at a time. `model` is the skeleton that they are for."""

    @abstractmethod
    def whole(self, device: torch.device, dtype: torch.dtype) -> Any:
        """Returns the undivided model."""

    @abstractmethod
    def hashes(self) -> tuple[str, str]:
        """Returns SHA-256 of the weights and of the processor, in hex."""


class FolderSource(Source):
    """Reads a folder that `save_pretrained` wrote, or a snapshot from the Hub. Code that it may hold is never run."""

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        self.folder = folder
        self._files = weight_files(folder)

    @cached_property
    def config(self) -> Any:
        """Returns the configuration by transformers. Raises UsageError for another family, or a file that cannot be read."""
        from transformers import AutoConfig

        path = self.folder / "config.json"
        family_of(str(read_object(path).get("model_type")), str(self.folder))
        try:
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # whatever transformers raises over a file's content
            raise UsageError(
                f"{path} is not one that transformers reads: {first_sentence(error)}",
                advice="Fetch it again, or save the model again with save_pretrained.",
            ) from error

    def processor(self) -> Any:
        """Returns the folder's processor, which made one prompt already. Raises UsageError."""
        from splitvlm.model.processors import load_processor

        return load_processor(self.folder, self.config)

    def generation_config(self, model: Any) -> Any:
        """Returns generation_config.json's content, or the model's defaults without that file. Raises UsageError."""
        from transformers import GenerationConfig

        if not (self.folder / "generation_config.json").is_file():
            return model.generation_config
        try:
            return GenerationConfig.from_pretrained(self.folder, local_files_only=True)
        except Exception as error:  # whatever transformers raises over a file's content
            raise UsageError(
                f"{self.folder / 'generation_config.json'} is not one that transformers reads: {first_sentence(error)}",
                advice="Fetch it again, or remove it: the model's own defaults are taken then.",
            ) from error

    def check(self, model: Any, needed: set[str]) -> None:
        """Compares names and shapes in the folder with the skeleton's parameters. Raises UsageError."""
        matched(self._files, model, needed)

    def tensors(self, model: Any, wanted: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the wanted parameters, file by file, each as a copy in memory. Raises UsageError."""
        if not wanted:
            return
        stored, tied = matched(self._files, model, wanted), tied_names(model)
        stored_tensors = {
            name: next(stored[alias] for alias in tied.get(name, (name,)) if alias in stored) for name in wanted
        }
        for path in self._files:
            with opened(path) as file:
                for name, tensor in stored_tensors.items():
                    if tensor.path == path:
                        yield name, file.get_tensor(tensor.name).clone()  # off the mapping, which closes here

    def stored_dtype(self) -> torch.dtype:
        """Returns the dtype of the weights; of several, the first tensor's. Raises UsageError."""
        with opened(self._files[0]) as file:
            stored: torch.dtype = file.get_tensor(next(iter(file.keys()))).dtype
            return stored

    def whole(self, device: torch.device, dtype: torch.dtype) -> Any:
        """Returns the undivided model, loaded by transformers."""
        from transformers import AutoModelForImageTextToText
        from transformers.utils import logging

        logging.disable_progress_bar()  # a bar for a second of loading tears every table that a verb prints
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            self.folder,
            dtype=dtype,
            attn_implementation="sdpa",
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
        )
        return loaded.eval().requires_grad_(False).to(device)

    def hashes(self) -> tuple[str, str]:
        """Returns SHA-256 of weights with configuration, and of the processor's files, both as hexadecimal."""
        from splitvlm.model.processors import processor_files

        return _hash_of([*self._files, self.folder / "config.json"]), _hash_of(processor_files(self.folder))


def spec_of(source: Source, name: str) -> ModelSpec:
    """Facts of a model by its config, counted on a skeleton that its weights must fit. Raises UsageError."""
    config = source.config
    family = family_of(config.model_type, name)
    text, (vision_hidden, vision_inner) = config.get_text_config(), family.tower_widths(config)
    depth = family.vision_depth(config)
    model = _skeleton(config, name)
    parameters = [parameter for parameter, _ in model.named_parameters()]
    source.check(model, {parameter for parameter in parameters if _is_run(family.layout.stage_of(parameter), depth)})
    weights_hash, processor_hash = source.hashes()
    return ModelSpec(
        name=name,
        family=family.name,
        vision_layers=depth,
        lm_layers=text.num_hidden_layers,
        vision_hidden=vision_hidden,
        vision_inner=vision_inner,
        vision_patches=family.patches_of_tile(config),
        lm_hidden=text.hidden_size,
        lm_inner=text.intermediate_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocab_size=text.vocab_size,
        max_context=text.max_position_embeddings,
        parameters=_counted(family, model, depth, text.num_hidden_layers),
        weights_hash=weights_hash,
        processor_hash=processor_hash,
        random_weights=source.random_weights,
    )


def _skeleton(config: Any, name: str) -> Any:
    try:
        return build_skeleton(config, torch.float32)
    except Exception as error:  # whatever transformers raises over sizes that make no model
        raise UsageError(
            f"The config.json of {name} makes no model: {first_sentence(error)}", advice="Fetch it again."
        ) from error


def _is_run(stage: tuple[str, int], vision_layers: int) -> bool:
    """Tells whether any cut runs the stage: some towers end in a head, or in layers, that the model leaves out."""
    kind, index = stage
    return kind != "unused" and (kind != "vision" or index < vision_layers)


def _counted(family: Any, model: Any, vision_layers: int, lm_layers: int) -> StageParameters:
    counts: dict[tuple[str, int], int] = {}
    for name, parameter in model.named_parameters():  # a shared one comes once, by its first name
        stage = family.layout.stage_of(name)
        counts[stage] = counts.get(stage, 0) + parameter.numel()
    single_stages = {kind: counts.get((kind, 0), 0) for kind in ("patches", "connector", "embed", "norm", "head")}
    return StageParameters(
        **single_stages,
        vision=tuple(counts[("vision", i)] for i in range(vision_layers)),
        lm=tuple(counts[("lm", i)] for i in range(lm_layers)),
        tied=single_stages["head"] == 0,
    )


def _hash_of(files: list[Path]) -> str:
    """Returns SHA-256 over the sorted (name, SHA-256) of files."""
    lines = sorted(f"{path.name} {_stored_hash(path)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _stored_hash(path: Path) -> str:
    blob = path.resolve().name  # the Hub's cache names large files by their SHA-256
    return blob if re.fullmatch(r"[0-9a-f]{64}", blob) else file_hash(path)
