"""A family says what must be known of its models to divide them.

Shape letters: B batch (1), N tiles or crops, P patches, V visual tokens, T prompt tokens, Q new tokens, D width.
A family names where the stages of the model are, and runs them by transformers' own forwards. It keeps no state of a
request: one object serves many requests in turn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from splitvlm.errors import UsageError
from splitvlm.model.boundary import HIDDEN, IDS, TYPES, Boundary

PIXEL_BYTES = 12  # red, green and blue, in float32
MOST_BATCHES = 5  # of 17 tiles, four at a time and one: what is left to do when the tower has run them is little


@dataclass(frozen=True)
class Layout:
    """Holds the prefixes of parameter names, stage by stage, from shallow to deep."""

    patches: tuple[str, ...]
    vision: str  # "...layers." before the layer's number
    connector: tuple[str, ...]
    language: str  # the language model's own prefix, with the final dot

    def stage_of(self, name: str) -> tuple[str, int]:
        """Returns (kind, index) of a parameter: patches, vision i, connector, embed, lm i, norm, head, or unused. i from 0."""
        for prefix, kind in ((self.vision, "vision"), (f"{self.language}layers.", "lm")):
            if name.startswith(prefix):
                return kind, int(name.removeprefix(prefix).split(".", 1)[0])
        if name.startswith(self.patches):
            return "patches", 0
        if name.startswith(self.connector):
            return "connector", 0
        ends = {f"{self.language}embed_tokens.": "embed", f"{self.language}norm.": "norm", "lm_head.": "head"}
        return next((kind for prefix, kind in ends.items() if name.startswith(prefix)), "unused"), 0


def batches(tiles: torch.Tensor, dim: int = 0) -> Sequence[torch.Tensor]:
    """Tiles along `dim`, a few at a time: each part that is sent costs the coder and the frame anew."""
    split: Sequence[torch.Tensor] = tiles.split(-(-tiles.shape[dim] // MOST_BATCHES), dim=dim)
    return split


class Family(ABC):
    """Knows how one family's models are divided.

    `inputs` is what the processor made of a picture and a prompt, with its batch axis.
    """

    name: ClassVar[str]
    layout: ClassVar[Layout]
    needs_types: ClassVar[bool] = False  # the language model must know where image tokens stand
    vision_sides: ClassVar[tuple[str, ...]] = ()  # side tensors that cross at vision:k,
    optional_sides: ClassVar[tuple[str, ...]] = ()  # or may,
    language_sides: ClassVar[tuple[str, ...]] = ()  # and those that the language model needs too
    states_axes: ClassVar[int] = 3  # of `hidden` at vision:k
    tokens_by_tile: ClassVar[bool] = True  # visual tokens are those of one tile after another
    shares_prefixes: ClassVar[bool] = True  # what comes after an image changes nothing of what is cached up to its end
    causal: ClassVar[bool] = False  # each token of a prompt, also an image's, sees those before it alone

    def vision_depth(self, config: Any) -> int:
        """Returns how many layers of the tower are used."""
        return int(config.vision_config.num_hidden_layers)

    def tower_widths(self, config: Any) -> tuple[int, int]:
        """Returns the width of the tower's states, and that within its MLPs."""
        return int(config.vision_config.hidden_size), int(config.vision_config.intermediate_size)

    def patches_of_tile(self, config: Any) -> int:
        """Returns the number of patches of one tile, for the bound on activations."""
        return int(config.vision_config.image_size // config.vision_config.patch_size) ** 2

    def tiles(self, inputs: Mapping[str, torch.Tensor]) -> Sequence[Mapping[str, torch.Tensor]]:
        """Returns `inputs` of each tile, where the tower sees them one by one and nothing else tells them apart; else all as
        one.

        Of many tiles a few are one (`batches`).
        """
        return [inputs]

    @abstractmethod
    def pixel_bytes(self, config: Any, image_processor: Any, width: int, height: int) -> int:
        """Returns a bound on the bytes of pixel values that the processor makes of a picture of that size in pixels."""

    @abstractmethod
    def lower_vision(self, model: Any, inputs: Mapping[str, torch.Tensor], layers: int) -> Boundary:
        """Runs patches through the tower's first `layers` layers. Returns `hidden` and the side tensors that the rest needs."""

    def tile_module(self, model: Any) -> nn.Module:
        """Returns tower and connector as one module: tiles' pixels [N, 3, H, W] in, visual tokens [N, V, D] out.

        It can be exported, and shares its weights with the model. Raises UsageError where a tile's tokens follow from more than
        its own pixels.
        """
        raise UsageError(
            f"The tower of a {self.name} model cannot be exported: a tile's visual tokens follow from the whole picture.",
            advice="Export a SmolVLM, Idefics3 or Gemma 3 model.",
        )

    def tile_pixels(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns the pixels that `tile_module` takes, float32 [N, 3, H, W]. Raises UsageError where a tile is padded."""
        return inputs["pixel_values"].float()

    # What a peer's boundary may hold. All sizes that the rest of the run allocates by are checked here, before it runs.

    @abstractmethod
    def check_states(self, model: Any, boundary: Boundary, most_tokens: int) -> bool:
        """Tells whether `hidden` at vision:k and its side tensors have shapes and dtypes that this model's tower can make.

        `boundary` may be one tile's, and an outline without data. A prompt has room for `most_tokens` visual tokens.
        """

    @abstractmethod
    def visual_tokens(self, model: Any, boundary: Boundary) -> int | None:
        """Returns how many visual tokens a boundary at vision:k becomes, computed without running anything.

        None where values of its side tensors do not fit `hidden`; its shapes passed `check_states`.
        """

    def check_sides(self, model: Any, boundary: Boundary, visual_tokens: int) -> bool:
        """Tells whether the values of `language_sides` fit so many visual tokens, at any cut."""
        return True

    @abstractmethod
    def upper_vision(self, model: Any, boundary: Boundary, layers: int) -> torch.Tensor:
        """Runs the tower's layers from `layers` on, and its end. Returns states for `connect`."""

    @abstractmethod
    def connect(self, model: Any, states: torch.Tensor, boundary: Boundary) -> torch.Tensor:
        """Runs the connector. Returns visual tokens [V, D]."""

    @abstractmethod
    def stack(self, model: Any) -> nn.Module:
        """Returns the language model: embed_tokens, layers, norm."""

    def patch_embedding(self, model: Any) -> nn.Module:
        """Returns the first module of the tower."""
        module: nn.Module = model.get_submodule(self.layout.patches[0].rstrip("."))
        return module

    def vision_layers(self, model: Any) -> nn.ModuleList:
        """Returns the layers of the vision tower, all that the checkpoint has."""
        layers: nn.ModuleList = model.get_submodule(self.layout.vision.rstrip("."))
        return layers

    def embed(self, model: Any, ids_T: torch.Tensor, visual_VD: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings [T, D] of tokens, with visual tokens put in the places of the image tokens."""
        embed: Any = self.stack(model).embed_tokens
        if visual_VD is None:
            text_TD: torch.Tensor = embed(ids_T)
            return text_TD
        places_T = ids_T == model.config.image_token_id
        known_T = ids_T.masked_fill(places_T, 0) if model.config.image_token_id >= embed.num_embeddings else ids_T
        states_TD: torch.Tensor = embed(known_T)
        return states_TD.masked_scatter(places_T[:, None], visual_VD.to(states_TD.dtype))

    def types(self, model: Any, boundary: Boundary) -> torch.Tensor:
        """Returns the tokens' types [T]: 1 where an image token stands, else 0."""
        if TYPES in boundary:
            return boundary[TYPES].long()
        places_T: torch.Tensor = boundary[IDS] == int(model.config.image_token_id)
        return places_T.long()

    def positions(self, model: Any, boundary: Boundary) -> tuple[torch.Tensor, int]:
        """Returns position ids of the prompt as the language model takes them, and what is added to those of later tokens."""
        num_tokens = boundary[HIDDEN].shape[0]
        return torch.arange(num_tokens, device=boundary[HIDDEN].device)[None], 0

    def later_positions(self, position: int, device: torch.device) -> torch.Tensor:
        """Returns position ids of one later token."""
        return torch.full((1, 1), position, device=device)

    def prompt_mask(
        self, model: Any, stack: Any, states_BTD: torch.Tensor, cache: Any, positions: torch.Tensor, boundary: Boundary
    ) -> Any:
        """Returns the mask of the prefill as the language model takes it; all ones lets the model build its causal mask."""
        return torch.ones(states_BTD.shape[:2], dtype=torch.long, device=states_BTD.device)

    def shrunk(self, image_processor: Any, picture_CHW: Any) -> Any:
        """Returns the picture resized as the processor's first step would do it.

        None where only the original gives its result.
        """
        return None
