"""Holds what both parts of a divided model share: the modules that are loaded, their slices, the prompt, the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from splitvlm.domain import IMAGE, Cut, CutKind, Sampling
from splitvlm.errors import ProtocolError, UsageError
from splitvlm.files.pictures import to_rgb
from splitvlm.grammar.grammar import Matcher
from splitvlm.grammar.grammars import Grammars
from splitvlm.model.boundary import HIDDEN, IDS, Boundary
from splitvlm.model.families.family import Family
from splitvlm.model.language import LanguageRun
from splitvlm.model.processors import num_prompt_tokens, prompt_inputs
from splitvlm.model.prompt import Prompt
from splitvlm.model.sampling import end_token_ids
from splitvlm.model.slicing import language_slice
from splitvlm.model.spec import ModelSpec
from splitvlm.model.stage_clock import OnStage, StageClock
from splitvlm.model.tower import TorchTower, Tower

if TYPE_CHECKING:
    from torch import nn


CPU = torch.device("cpu")
PREPARED_COPIES = 5  # of pixel values: 4.0 were seen at once, where the processor rescales, normalises and stacks them
PIXELS = "pixel_values"  # of the processor's tensors: absent where a prompt has no image
PICTURE_BYTES = 20  # a pixel: the picture, its RGB copy, its arrays, and what lies between two passes of resizing


class ModelPart:
    """Holds what both parts share: the model as far as it is loaded, its family, its slices, its clock."""

    def __init__(
        self,
        spec: ModelSpec,
        family: Family,
        model: Any,
        processor: Any,
        cuts: tuple[Cut, ...],
        device: torch.device = CPU,
    ) -> None:
        self.spec = spec
        self.cuts = cuts
        self.family = family
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.device = device
        self.clock = StageClock(self.device)
        own_tower = TorchTower(family, model, self.clock)
        self.tower_of: Callable[[], Tower] = lambda: own_tower
        self.clock.watch(family.stack(model).layers, "lm")  # type: ignore[arg-type]
        self.slice = lru_cache(maxsize=None)(self._slice)

    @property
    def on_stage(self) -> OnStage | None:
        """Gets (stage, seconds) as stages end; None, the default, measures nothing."""
        return self.clock.listener

    @on_stage.setter
    def on_stage(self, listener: OnStage | None) -> None:
        """Sets who is told of each stage's name and seconds; None stops the clock."""
        self.clock.listener = listener

    @cached_property
    def grammars(self) -> Grammars:
        """Compiles constraints for the model's tokenizer."""
        return Grammars(self.tokenizer.backend_tokenizer, self.spec.vocab_size, end_token_ids(self.model))

    def matcher(self, sampling: Sampling) -> Matcher | None:
        """Returns what follows an answer under a sampling's constraint, from its beginning. Raises UsageError."""
        return None if sampling.constraint is None else self.grammars.matcher(sampling.constraint)

    def language_run(self, start: int, stop: int, *, ends: bool) -> LanguageRun:
        """Returns a run of the language model's layers [start, stop) with its own cache, and with `ends` the final norm."""
        return LanguageRun(self.family, self.model, self.slice(start, stop, ends))

    def logits(self, states_QD: torch.Tensor) -> torch.Tensor:
        """Logits [V] after the last of the states, which have passed the final norm."""
        with self.clock.stage("head"):
            scores: torch.Tensor = self.model.lm_head(states_QD[None, -1:])[0, -1]
        return scores

    def check(self, cut: Cut) -> None:
        """Raises UsageError for a cut that the model does not have or that this part does not serve."""
        self.spec.check(cut)
        if cut not in self.cuts:
            served = ", ".join(str(cut) for cut in (self.cuts[0], self.cuts[-1])) if self.cuts else "none"
            raise UsageError(
                f"The part of {self.spec.name} that is loaded here does not serve the cut {cut}.",
                advice=f"It serves the cuts from {served.replace(', ', ' to ')}.",
            )

    def inputs(self, prompt: Prompt) -> dict[str, torch.Tensor]:
        """Returns the processor's tensors on this part's device. Raises UsageError for a prompt that cannot be read."""
        with self.clock.stage("prepare"), picture_errors():
            upright = Prompt(prompt.conversation, tuple(map(to_rgb, prompt.images)))
            made = prompt_inputs(self.processor, upright)
        self.check_length(made["input_ids"].shape[1])
        return {name: value.to(self.device) for name, value in made.items() if isinstance(value, torch.Tensor)}

    def check_prompt(self, prompt: Prompt) -> None:
        """Raises UsageError for a prompt that cannot be read, by its text and its images' sizes: no pixel is touched."""
        self.check_length(num_prompt_tokens(self.processor, prompt))

    def check_length(self, num_tokens: int) -> None:
        """Raises UsageError for a prompt of so many tokens that no answer to it could be read."""
        if num_tokens >= self.spec.max_context:
            raise UsageError(
                f"The prompt is too long: {num_tokens} tokens, of {self.spec.max_context} that {self.spec.name} can read.",
                advice="Ask a shorter question, send fewer or smaller images, or leave out the oldest turns.",
            )

    def preparation_bytes(self, width: int, height: int) -> int:
        """Returns peak memory that `inputs` takes for a picture of that size, the picture itself among it: an upper bound."""
        pixel_bytes = self.family.pixel_bytes(self.model.config, self.processor.image_processor, width, height)
        return PREPARED_COPIES * pixel_bytes + PICTURE_BYTES * width * height

    def picture(self, image: Image.Image) -> Image.Image:
        """Returns the picture for the cut `image`: resized as the processor's first step does it, where that makes it smaller.

        Where the model reads the original's size (LLaVA-OneVision, Gemma 3 with crops), it stays as it is: a smaller one
        would give other tokens.
        """
        image = to_rgb(image)
        pixels_CHW = np.asarray(image).transpose(2, 0, 1)
        with picture_errors():
            shrunk = self.family.shrunk(self.processor.image_processor, pixels_CHW)
            if shrunk is None or shrunk[0].size >= pixels_CHW[0].size:
                return image
            prefix_cached = self.family.shrunk(self.processor.image_processor, shrunk)
        if prefix_cached.shape != shrunk.shape:  # the cloud's own resize would not leave it as it is
            return image
        return Image.fromarray(np.ascontiguousarray(shrunk.transpose(1, 2, 0).astype(np.uint8)))

    def prompt_ids(self, prompt: Prompt) -> torch.Tensor:
        """Returns the prompt's token ids [T], int64, on the host. Raises UsageError."""
        return self.inputs(prompt)["input_ids"][0].cpu()

    @property
    def tower(self) -> Tower:
        """Returns the tower that makes this part's visual tokens, loaded."""
        return self.tower_of()

    def see(self, inputs: dict[str, torch.Tensor], layers: int) -> Boundary:
        """Returns the boundary at vision:`layers`; of text alone its `ids`."""
        if PIXELS not in inputs:
            return {IDS: inputs["input_ids"][0]}
        return self._own_tower.see(inputs, layers)

    def _filling(self, boundary: Boundary) -> Boundary:
        """Returns a boundary at `tokens`, whose visual tokens fill the prompt's places. Raises ProtocolError."""
        num_image_tokens = int((boundary[IDS] == self.model.config.image_token_id).sum())
        num_visual_tokens = boundary[HIDDEN].shape[0] if HIDDEN in boundary else 0
        if num_image_tokens != num_visual_tokens:
            raise ProtocolError(f"The prompt has {num_image_tokens} places for {num_visual_tokens} visual tokens.")
        return boundary

    def tile_tokens(self, boundary: Boundary, layers: int) -> Boundary:
        """Returns the boundary at `tokens` from that at vision:`layers`, whose `hidden` may be that of one tile of several."""
        return self._own_tower.finish(boundary, layers)

    @property
    def _own_tower(self) -> TorchTower:
        tower = self.tower
        assert isinstance(tower, TorchTower), "only the model's own tower serves cuts inside it"
        return tower

    def all_visual_tokens(self, inputs: dict[str, torch.Tensor]) -> Boundary:
        """Runs the whole tower on the processor's tensors and returns the boundary at `tokens`; of text alone its `ids`."""
        return self._filling(self.visual(IMAGE, inputs))

    def tower_tokens(self, inputs: dict[str, torch.Tensor]) -> Boundary:
        """Runs the whole tower on the processor's tensors, which may be of some tiles, and returns the boundary at `tokens`.

        Whatever the tower computes in, visual tokens have the dtype of the language model.
        """
        boundary = self.tower.tokens(inputs)
        return boundary | {HIDDEN: boundary[HIDDEN].to(self.model.dtype)}

    def visual(self, cut: Cut, crossing: Boundary) -> Boundary:
        """Returns `hidden` [V, D], visual tokens of what crosses at image, vision:k or tokens; of text alone nothing."""
        if cut.kind is CutKind.IMAGE:
            return self.tower_tokens(crossing) if PIXELS in crossing else {IDS: crossing["input_ids"][0]}
        if cut.kind is CutKind.VISION and HIDDEN in crossing:
            return self.tile_tokens(crossing, cut.layers)
        return crossing

    def tiles(self, inputs: dict[str, torch.Tensor], cut: Cut) -> list[dict[str, torch.Tensor]]:
        """Returns the processor's tensors tile by tile, where what crosses at the cut is one tile's after another's; else as
        one.
        """
        if PIXELS not in inputs:
            return [inputs]
        by_tile = cut.kind is CutKind.VISION or (cut.kind is CutKind.TOKENS and self.family.tokens_by_tile)
        return [dict(tile) for tile in self.family.tiles(inputs)] if by_tile else [inputs]

    def embedded(self, boundary: Boundary) -> Boundary:
        """Turns the boundary at `tokens` into the language model's input, `hidden` [T, D]."""
        with self.clock.stage("embed"):
            states_TD = self.family.embed(self.model, boundary[IDS], boundary.get(HIDDEN))
        return boundary | {HIDDEN: states_TD}

    def language_input(self, cut: Cut, crossing: Boundary) -> Boundary:
        """Returns the language model's input, `hidden` [T, D], from a boundary at vision:k or tokens, or `image`'s tensors."""
        return self.embedded(self._filling(self.visual(cut, crossing)))

    def _slice(self, start: int, stop: int, ends: bool) -> nn.Module:
        return language_slice(self.family.stack(self.model), start, stop, ends=ends)


@contextmanager
def picture_errors() -> Iterator[None]:
    """Translates the ValueError by which transformers' processors refuse pictures (of extreme proportions, say) and prompts."""
    try:
        yield
    except ValueError as error:
        raise UsageError(
            f"The model's processor does not take this picture and question: {str(error).splitlines()[0].rstrip('.')}.",
            advice="Use a picture of ordinary proportions, and no special tokens in the question.",
        ) from error
