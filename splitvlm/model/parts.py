"""The two parts of a divided model: what the device runs, and what the cloud runs from the boundary alone.

Each request is an object of its own (LowerRun; UpperRun in upper_run.py) that holds its caches; the modules are shared and
stay untouched, so that one part serves many requests in turn from one thread. Everything runs under `torch.inference_mode`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch

from splitvlm.domain import DEVICE, GREEDY, IMAGE, TOKENS, Conversation, Cut, CutKind, Sampling
from splitvlm.errors import UsageError
from splitvlm.model.boundary import HIDDEN, IDS, TYPES, Boundary, joined
from splitvlm.model.boundary_checks import check_boundary, check_cached_prefix
from splitvlm.model.language import LanguageRun
from splitvlm.model.part import ModelPart
from splitvlm.model.prefix import Prefix
from splitvlm.model.prompt import Prompt
from splitvlm.model.sampling import reads_prompt
from splitvlm.model.tower import Tower
from splitvlm.model.upper_run import CachedPrefixRun, UpperRun


class DevicePart(ModelPart):
    """Runs the lower part. `cuts` are those that the loaded weights can serve."""

    def with_tower(self, tower_of: Callable[[], Tower], cuts: tuple[Cut, ...]) -> DevicePart:
        """Returns a part for `cuts` with another tower, which `tower_of` gives loaded; all else is shared with this one."""
        part = copy.copy(self)
        part.tower_of, part.cuts = tower_of, cuts
        return part

    @torch.inference_mode()
    def lower(self, prompt: Prompt, cut: Cut) -> LowerRun:
        """Runs the lower part at vision:k, tokens or lm:k. Raises UsageError."""
        run = self.begin(prompt, cut)
        run.tile(run.num_tiles - 1)
        return run

    @torch.inference_mode()
    def begin(self, prompt: Prompt, cut: Cut, num_cached: int = 0) -> LowerRun:
        """Prepares the lower part: its tiles are run as they are asked for. Raises UsageError.

        Of its first `num_cached` images, at vision:k and tokens, nothing is run: only the prompt's `ids` tell of them.
        """
        self.check(cut)
        if cut in (IMAGE, DEVICE):
            raise UsageError(f"The cut {cut} has no lower part to run.", advice="Use `picture` or `generate`.")
        inputs = self.inputs(prompt)
        if not num_cached:
            return LowerRun(self, inputs, cut)
        whole_ids, images = inputs["input_ids"], prompt.images[num_cached:]
        further = self.inputs(Prompt(Conversation.about("?", len(images)), images)) if images else {}
        num_further = self._num_image_tokens(further["input_ids"]) if images else 0
        run = LowerRun(self, further | {"input_ids": whole_ids}, cut)
        run.num_cached_image_tokens = self._num_image_tokens(whole_ids) - num_further
        return run

    def _num_image_tokens(self, ids: torch.Tensor) -> int:
        return int((ids == self.model.config.image_token_id).sum())

    @torch.inference_mode()
    def generate(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        resume_token_ids: Sequence[int] = (),
        sampling: Sampling = GREEDY,
    ) -> DeviceTokens:
        """Returns the answer's token ids at the cut `device`, computed here alone, up to and with the end token.

        `resume_token_ids` are its first tokens, which are there already: those after them are yielded.
        """
        self.check(DEVICE)
        inputs = self.inputs(prompt)
        run = UpperRun(self, TOKENS, self.all_visual_tokens(inputs), max_new_tokens, sampling)
        return DeviceTokens(self, run, resume_token_ids, inputs["input_ids"][0], max_new_tokens)

    def go_on(
        self,
        run: LowerRun,
        max_new_tokens: int,
        resume_token_ids: Sequence[int] = (),
        sampling: Sampling = GREEDY,
    ) -> DeviceTokens:
        """Finishes the cut `device` from a lower part that has run, at vision:k or tokens. Nothing runs before a token."""
        self.check(DEVICE)
        here = {name: tensor.to(self.device) for name, tensor in run.boundary.items()}
        upper = UpperRun(self, run.cut, here, max_new_tokens, sampling)
        return DeviceTokens(self, upper, resume_token_ids, run.ids_T, max_new_tokens)

    def cache_bytes(self, num_tokens: int, layers: int | None = None) -> int:
        """Returns the memory of keys and values of so many tokens, in the language model's first `layers` layers, or in all."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return self.spec.cache_bytes(self.spec.lm_layers if layers is None else layers, dtype, num_tokens)


class DeviceTokens(Iterator[int]):
    """Gives the tokens of an answer that the device computes alone. The language model begins with the first of them.

    `cache_bytes` is the memory that its keys and values take at the most. The prompt has
    `num_prompt_tokens`, of which `num_image_tokens` are its images'.
    """

    def __init__(
        self, part: DevicePart, run: UpperRun, resume_token_ids: Sequence[int], ids_T: torch.Tensor, max_new_tokens: int
    ) -> None:
        self.num_prompt_tokens = len(ids_T)
        self.num_image_tokens = int((ids_T == part.model.config.image_token_id).sum())
        self.cache_bytes = part.cache_bytes(self.num_prompt_tokens + max_new_tokens)
        self._run = run
        self._resume_token_ids = resume_token_ids
        self._count = 0

    def __next__(self) -> int:
        run = self._run
        while not run.finished:
            taken = self._resume_token_ids[self._count] if self._count < len(self._resume_token_ids) else None
            token_id = run.next(None, taken) if self._count else run.first(taken)
            self._count += 1
            if taken is None:
                return token_id
        raise StopIteration


class LowerRun:
    """Runs one request on the device, tile by tile where the tower sees tiles one by one.

    What crosses is in the host's memory.
    """

    def __init__(self, part: DevicePart, inputs: dict[str, torch.Tensor], cut: Cut) -> None:
        self.cut = cut
        self.num_cached_image_tokens = 0  # of images that the cloud has: what crosses does not fill their places
        self.part = part
        self._language: LanguageRun | None = None
        self._inputs = part.tiles(inputs, cut)
        self._tiles: list[Boundary] = []
        self.ids_T = inputs["input_ids"][0].cpu()  # of the whole prompt

    @property
    def num_prompt_tokens(self) -> int:
        """Returns how many tokens the prompt has."""
        return len(self.ids_T)

    def cache_bytes(self, max_new_tokens: int) -> int:
        """Returns the memory of the run's own keys and values, those of the longest answer included; 0 but at `lm:k`."""
        if self.cut.kind is not CutKind.LM:
            return 0
        return self.part.cache_bytes(self.num_prompt_tokens + max_new_tokens, self.cut.layers)

    @property
    def can_finish_here(self) -> bool:
        """Tells whether the device may go on from this run to the answer by itself (`DevicePart.go_on`)."""
        return self.cut.kind is not CutKind.LM and DEVICE in self.part.cuts

    @property
    def num_tiles(self) -> int:
        """Returns into how many tiles the picture was divided; each can be run and sent by itself."""
        return len(self._inputs)

    @property
    def boundary(self) -> Boundary:
        """Returns what crosses after the prefill; tiles that were not asked for yet are run."""
        self.tile(self.num_tiles - 1)
        return joined(self._tiles)

    @torch.inference_mode()
    def tile(self, index: int) -> Boundary:
        """Returns what crosses of one tile: its `hidden`, and with the first all else. Each is run once, in their order."""
        while len(self._tiles) <= index:
            crossing = self._crossing(self._inputs[len(self._tiles)])
            if self._tiles:
                crossing = {HIDDEN: crossing[HIDDEN]}
            self._tiles.append({name: tensor.cpu() for name, tensor in crossing.items()})
        return self._tiles[index]

    def _crossing(self, inputs: dict[str, torch.Tensor]) -> Boundary:
        part = self.part
        if self.cut.kind is CutKind.VISION:
            return part.see(inputs, self.cut.layers)
        if self.cut.kind is CutKind.TOKENS and (self.num_tiles > 1 or self.num_cached_image_tokens):
            return part.visual(IMAGE, inputs)
        crossing = part.all_visual_tokens(inputs)
        if self.cut.kind is CutKind.TOKENS:
            return crossing
        return self._into_language(part.embedded(crossing), self.cut.layers)

    def _into_language(self, boundary: Boundary, layers: int) -> Boundary:
        part = self.part
        self._language = part.language_run(0, layers, ends=False)
        crossing = {HIDDEN: self._language.prefill(boundary)}
        if reads_prompt(part.model):
            crossing[IDS] = boundary[IDS]
        elif part.family.needs_types:
            crossing[TYPES] = part.family.types(part.model, boundary).to(torch.uint8)
        return crossing | {name: boundary[name] for name in part.family.language_sides if name in boundary}

    @torch.inference_mode()
    def step(self, token_id: int) -> Boundary:
        """Returns the boundary of the next token, `hidden` [1, D]; at lm:k only."""
        assert self._language is not None, "only a cut in the language model steps on the device"
        with self.part.clock.stage("embed"):
            states_1D = self.part.family.embed(self.part.model, torch.tensor([token_id], device=self.part.device))
        return {HIDDEN: self._language.step(states_1D).cpu()}


class CloudPart(ModelPart):
    """Runs the upper part. `cuts` are those that the loaded weights can serve."""

    @torch.inference_mode()
    def upper(self, cut: Cut, boundary: Boundary, max_new_tokens: int, sampling: Sampling = GREEDY) -> UpperRun:
        """Returns a run from a boundary that arrived. Nothing runs before `first()`. Raises UsageError, ProtocolError."""
        self.check(cut)
        check_boundary(self, cut, boundary)
        here = {name: tensor.to(self.device) for name, tensor in boundary.items()}
        return UpperRun(self, cut, here, max_new_tokens, sampling)

    @torch.inference_mode()
    def upper_from_prompt(self, prompt: Prompt, max_new_tokens: int, sampling: Sampling = GREEDY) -> UpperRun:
        """Returns a run at the cut `image`: everything runs here. Raises UsageError."""
        return self.upper_from_inputs(self.inputs(prompt), max_new_tokens, sampling)

    @torch.inference_mode()
    def upper_from_inputs(
        self, inputs: dict[str, torch.Tensor], max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> UpperRun:
        """Returns the cut `image`'s run from what `inputs` made of a prompt. Raises UsageError."""
        self.check(IMAGE)
        return UpperRun(self, IMAGE, inputs, max_new_tokens, sampling)

    @torch.inference_mode()
    def embedded_prompt(self, cut: Cut, crossing: Boundary) -> Boundary:
        """Returns the language model's input, `hidden` [T, D], from what arrived at `image`, vision:k or tokens.

        `crossing` is a boundary, or at `image` the processor's tensors. Raises UsageError, ProtocolError.
        """
        self.check(cut)
        if cut != IMAGE:
            check_boundary(self, cut, crossing)
        return self.language_input(cut, {name: tensor.to(self.device) for name, tensor in crossing.items()})

    @torch.inference_mode()
    def embedded_tokens(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Returns embeddings [Q, D] of tokens of an answer."""
        with self.clock.stage("embed"):
            return self.family.embed(self.model, torch.tensor(token_ids, dtype=torch.long, device=self.device))

    @torch.inference_mode()
    def prefix_cached(
        self, prefix: Prefix, cut: Cut, crossing: Boundary, max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> UpperRun:
        """Returns a run of another prompt that begins as `prefix` does.

        `crossing` holds the whole prompt's `ids`, and what crosses at the cut of images that the prefix does not have; at
        `image` the processor's tensors of all. Raises UsageError, ProtocolError, PrefixEvicted.
        """
        self.check(cut)
        here = {name: tensor.to(self.device) for name, tensor in crossing.items()}
        if cut != IMAGE:
            check_cached_prefix(self, prefix, cut, here)
        return CachedPrefixRun(self, prefix, cut, here, max_new_tokens, sampling)
