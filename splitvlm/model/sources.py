"""Where a model comes from: a folder of files, or a shape. Gives its config, processor, tensors by name, and hashes."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from splitvlm.errors import UsageError
from splitvlm.model.families import SUPPORTED, family_of
from splitvlm.model.spec import ModelSpec, StageParameters
from splitvlm.paths import looks_like_path, path_of

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


class Source(ABC):
    """One model's origin. What is loaded from it is the same, whichever parts are asked for."""

    random_weights = False

    @property
    @abstractmethod
    def config(self) -> Any:
        """transformers' config of the model."""

    @abstractmethod
    def processor(self) -> Any: ...

    @abstractmethod
    def generation_config(self, model: Any) -> Any: ...

    @abstractmethod
    def tensors(self, model: Any, wanted: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """The wanted parameters, one at a time. `model` is the skeleton that they are for."""

    @abstractmethod
    def whole(self, device: torch.device, dtype: torch.dtype) -> Any:
        """The undivided model."""

    @abstractmethod
    def hashes(self) -> tuple[str, str]:
        """SHA-256 of the weights and of the processor, in hex."""


class FolderSource(Source):
    """A folder as `save_pretrained` writes it, or a snapshot from the Hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"{folder} holds no model: there is no config.json.", advice="Name a saved model's folder."
            )
        self._files = sorted(folder.glob("*.safetensors"))
        if not self._files:
            raise UsageError(
                f"{folder} holds no weights as safetensors.", advice="Save the model with safe serialisation."
            )

    @cached_property
    def config(self) -> Any:
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self.folder)
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"The config.json in {self.folder} is of no kind that is known.", advice=f"Try {SUPPORTED}."
            ) from error

    def processor(self) -> Any:
        from splitvlm.model.processors import load_processor

        return load_processor(self.folder)

    def generation_config(self, model: Any) -> Any:
        from transformers import GenerationConfig

        if not (self.folder / "generation_config.json").is_file():
            return model.generation_config
        return GenerationConfig.from_pretrained(self.folder)

    def tensors(self, model: Any, wanted: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
        rename = _renamer(model)
        missing = set(wanted)
        for path in self._files if wanted else ():
            with _opened(path) as file:
                for stored in file.keys():  # noqa: SIM118 (not a mapping)
                    name = rename(stored)
                    if name in missing:
                        missing.discard(name)
                        yield name, file.get_tensor(stored).clone()  # off the mapping, which closes here
        if missing:
            some = ", ".join(sorted(missing)[:3])
            raise UsageError(f"The weights in {self.folder} are incomplete: {some} and others are missing.")

    def whole(self, device: torch.device, dtype: torch.dtype) -> Any:
        from transformers import AutoModelForImageTextToText
        from transformers.utils import logging

        logging.disable_progress_bar()  # a bar for a second of loading tears every table that a verb prints
        loaded: Any = AutoModelForImageTextToText.from_pretrained(self.folder, dtype=dtype, attn_implementation="sdpa")
        return loaded.eval().requires_grad_(False).to(device)

    def hashes(self) -> tuple[str, str]:
        from splitvlm.model.processors import processor_files

        return _hash_of([*self._files, self.folder / "config.json"]), _hash_of(processor_files(self.folder))


def find_source(name: str) -> Source:
    """The source of a model's name. Raises UsageError."""
    if name == "scenes":
        return FolderSource(_embedded_folder())
    if name.startswith("shape:"):
        from splitvlm.model.shapes import ShapeSource

        return ShapeSource(name.removeprefix("shape:"))
    path = path_of(name)
    if path.is_dir():
        return FolderSource(path)
    if looks_like_path(name) or not _HUB_ID.fullmatch(name):
        raise UsageError(
            f"There is no model '{name}'.",
            advice="A model is a folder, a Hugging Face id (owner/name), `scenes` or `shape:<id>`.",
        )
    return FolderSource(_download(name))


def _embedded_folder() -> Path:
    folder = Path(str(resources.files("splitvlm") / "scenes" / "files"))
    if not (folder / "config.json").is_file():
        raise UsageError(
            "The files of the embedded model `scenes` are missing from this installation.",
            advice="Install splitvlm again, or train it: python -m splitvlm.scenes.train.",
        )
    return folder


def spec_of(source: Source, name: str) -> ModelSpec:
    """Facts of a model by its config, counted on a skeleton. Raises UsageError."""
    from splitvlm.model.skeleton import build_skeleton

    config = source.config
    family = family_of(config.model_type, name)
    text, vision = config.get_text_config(), config.vision_config
    weights_hash, processor_hash = source.hashes()
    depth = family.vision_depth(config)
    model = build_skeleton(config, torch.float32)
    return ModelSpec(
        name=name,
        family=family.name,
        vision_layers=depth,
        lm_layers=text.num_hidden_layers,
        vision_hidden=vision.hidden_size,
        vision_inner=vision.intermediate_size,
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


def _counted(family: Any, model: Any, vision_layers: int, lm_layers: int) -> StageParameters:
    counts: dict[tuple[str, int], int] = {}
    for name, parameter in model.named_parameters():  # a shared one comes once, by its first name
        stage = family.layout.stage_of(name)
        counts[stage] = counts.get(stage, 0) + parameter.numel()
    one = {kind: counts.get((kind, 0), 0) for kind in ("patches", "connector", "embed", "norm", "head")}
    return StageParameters(
        **one,
        vision=tuple(counts[("vision", i)] for i in range(vision_layers)),
        lm=tuple(counts[("lm", i)] for i in range(lm_layers)),
        tied=one["head"] == 0,
    )


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"The weights in {path} cannot be read.", advice="The file is damaged: fetch it again."
        ) from error


def _renamer(model: Any) -> Any:
    """transformers' renaming of stored tensors to today's names (older checkpoints call them otherwise)."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [t for t in get_model_conversion_mapping(model) if isinstance(t, WeightRenaming)]
    known = dict(model.named_parameters(remove_duplicate=False))
    return lambda stored: rename_source_key(stored, renamings, [], model.base_model_prefix, known)[0]


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UsageError(
            f"There is no model '{name}': it is no folder here, and cannot be fetched from the Hugging Face Hub.",
            advice="Check the name and the connection, or name a folder.",
        ) from error


def _hash_of(files: list[Path]) -> str:
    """SHA-256 over the sorted (name, SHA-256) of files."""
    lines = sorted(f"{path.name} {_file_hash(path, path.stat().st_size, path.stat().st_mtime_ns)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@cache
def _file_hash(path: Path, size: int, modified_ns: int) -> str:
    blob = path.resolve().name  # the Hub's cache names large files by their SHA-256
    if re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
