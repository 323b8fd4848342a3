"""The two parts of a divided model: what the device runs, and what the cloud runs from the boundary alone.

Each request is an object of its own (LowerRun, UpperRun) that holds its caches; the modules are shared and stay untouched,
so that one part serves many requests in turn from one thread. Everything runs under `torch.inference_mode`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from PIL import Image

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, CutKind
from splitvlm.errors import ProtocolError, UsageError
from splitvlm.model.boundary import HIDDEN, IDS, TYPES, Boundary, joined
from splitvlm.model.boundary_checks import check_boundary, check_cached_prefix, check_step
from splitvlm.model.greedy import Greedy, reads_prompt
from splitvlm.model.language import LanguageCache, LanguageRun
from splitvlm.model.part import ModelPart
from splitvlm.model.prefix import Prefix, picture_end


class DevicePart(ModelPart):
    """Runs the lower part. `cuts` are those that the loaded weights can serve."""

    @torch.inference_mode()
    def lower(self, image: Image.Image, question: str, cut: Cut) -> LowerRun:
        """Run the lower part at vision:k, tokens or lm:k. Raises UsageError."""
        run = self.begin(image, question, cut)
        run.tile(run.num_tiles - 1)
        return run

    @torch.inference_mode()
    def begin(self, image: Image.Image, question: str, cut: Cut) -> LowerRun:
        """Prepares the lower part: its tiles are run as they are asked for. Raises UsageError."""
        self.check(cut)
        if cut in (IMAGE, DEVICE):
            raise UsageError(f"The cut {cut} has no lower part to run.", advice="Use `picture` or `generate`.")
        return LowerRun(self, self.inputs(image, question), cut)

    @torch.inference_mode()
    def generate(
        self, image: Image.Image, question: str, max_new_tokens: int, resume_token_ids: Sequence[int] = ()
    ) -> Iterator[int]:
        """Returns the answer's token ids at the cut `device`, computed here alone, up to and with the end token.

        `resume_token_ids` are its first tokens, which are there already: those after them are yielded.
        """
        self.check(DEVICE)
        boundary = _to_tokens(self, self.inputs(image, question))
        run = UpperRun(self, TOKENS, boundary, max_new_tokens)
        return _tokens_of(run, resume_token_ids)

    def go_on(self, run: LowerRun, max_new_tokens: int, resume_token_ids: Sequence[int] = ()) -> Iterator[int]:
        """Finishes the cut `device` from a lower part that has run, at vision:k or tokens. Nothing runs before a token."""
        self.check(DEVICE)
        here = {name: tensor.to(self.device) for name, tensor in run.boundary.items()}
        return _tokens_of(UpperRun(self, run.cut, here, max_new_tokens), resume_token_ids)


def _tokens_of(run: UpperRun, resume_token_ids: Sequence[int] = ()) -> Iterator[int]:
    count = 0
    while not run.finished:
        taken = resume_token_ids[count] if count < len(resume_token_ids) else None
        token = run.next(None, taken) if count else run.first(taken)
        count += 1
        if taken is None:
            yield token


def _to_tokens(part: ModelPart, inputs: dict[str, torch.Tensor]) -> Boundary:
    depth = part.spec.vision_layers
    return part.visual_tokens(part.see(inputs, depth), depth)


def _embedded(part: ModelPart, cut: Cut, crossing: Boundary) -> Boundary:
    """Returns the language model's input from a boundary at `image`, vision:k or tokens."""
    if cut.kind is CutKind.TOKENS:
        return part.embedded(crossing)
    if cut.kind is CutKind.VISION:
        return part.embedded(part.visual_tokens(crossing, cut.layers))
    return part.embedded(_to_tokens(part, crossing))


class LowerRun:
    """Runs one request on the device, tile by tile where the tower sees tiles one by one.

    What crosses is in the host's memory.
    """

    def __init__(self, part: DevicePart, inputs: dict[str, torch.Tensor], cut: Cut) -> None:
        self.cut = cut
        self._part = part
        self._language: LanguageRun | None = None
        self._inputs = part.tiles(inputs, cut)
        self._tiles: list[Boundary] = []
        self.num_prompt_tokens = int(inputs["input_ids"].shape[1])

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
        part, depth = self._part, self._part.spec.vision_layers
        if self.cut.kind is CutKind.VISION:
            return part.see(inputs, self.cut.layers)
        if self.cut.kind is CutKind.TOKENS and self.num_tiles > 1:
            return part.tile_tokens(part.see(inputs, depth), depth)
        crossing = _to_tokens(part, inputs)
        if self.cut.kind is CutKind.TOKENS:
            return crossing
        return self._into_language(part.embedded(crossing), self.cut.layers)

    def _into_language(self, boundary: Boundary, layers: int) -> Boundary:
        part = self._part
        self._language = part.language_run(0, layers, ends=False)
        crossing = {HIDDEN: self._language.prefill(boundary)}
        if reads_prompt(part.model):
            crossing[IDS] = boundary[IDS]
        elif part.family.needs_types:
            crossing[TYPES] = part.family.types(part.model, boundary).to(torch.uint8)
        return crossing | {name: boundary[name] for name in part.family.language_sides}

    @torch.inference_mode()
    def step(self, token_id: int) -> Boundary:
        """Returns the boundary of the next token, `hidden` [1, D]; at lm:k only."""
        assert self._language is not None, "only a cut in the language model steps on the device"
        with self._part.clock.stage("embed"):
            states_1D = self._part.family.embed(self._part.model, torch.tensor([token_id], device=self._part.device))
        return {HIDDEN: self._language.step(states_1D).cpu()}


class CloudPart(ModelPart):
    """Runs the upper part. `cuts` are those that the loaded weights can serve."""

    @torch.inference_mode()
    def upper(self, cut: Cut, boundary: Boundary, max_new_tokens: int) -> UpperRun:
        """Returns a run from a boundary that arrived. Nothing runs before `first()`. Raises UsageError, ProtocolError."""
        self.check(cut)
        check_boundary(self, cut, boundary)
        here = {name: tensor.to(self.device) for name, tensor in boundary.items()}
        return UpperRun(self, cut, here, max_new_tokens)

    @torch.inference_mode()
    def upper_from_picture(self, picture: Image.Image, question: str, max_new_tokens: int) -> UpperRun:
        """Returns a run at the cut `image`: everything runs here. Raises UsageError."""
        return self.upper_from_inputs(self.inputs(picture, question), max_new_tokens)

    @torch.inference_mode()
    def upper_from_inputs(self, inputs: dict[str, torch.Tensor], max_new_tokens: int) -> UpperRun:
        """Returns the cut `image`'s run from what `inputs` made of picture and question. Raises UsageError."""
        self.check(IMAGE)
        return UpperRun(self, IMAGE, inputs, max_new_tokens)

    @torch.inference_mode()
    def embedded_prompt(self, cut: Cut, crossing: Boundary) -> Boundary:
        """Returns the language model's input, `hidden` [T, D], from what arrived at `image`, vision:k or tokens.

        `crossing` is a boundary, or at `image` the processor's tensors. Raises UsageError, ProtocolError.
        """
        self.check(cut)
        if cut != IMAGE:
            check_boundary(self, cut, crossing)
        return _embedded(self, cut, {name: tensor.to(self.device) for name, tensor in crossing.items()})

    @torch.inference_mode()
    def embedded_tokens(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Returns embeddings [Q, D] of tokens of an answer."""
        with self.clock.stage("embed"):
            return self.family.embed(self.model, torch.tensor(token_ids, dtype=torch.long, device=self.device))

    @torch.inference_mode()
    def prefix_cached(self, prefix: Prefix, prompt: Boundary, max_new_tokens: int) -> UpperRun:
        """Returns another question about the picture behind `prefix`, by its `ids`. Raises ProtocolError, Forgotten."""
        check_cached_prefix(self, prefix, prompt)
        return CachedPrefixRun(self, prefix, {IDS: prompt[IDS].to(self.device)}, max_new_tokens)


class UpperRun:
    """Runs one request above the cut, with its own caches, which go when it is dropped."""

    def __init__(self, part: ModelPart, cut: Cut, crossing: Boundary, max_new_tokens: int) -> None:
        self._part, self._cut, self._crossing = part, cut, crossing
        start = cut.layers if cut.kind is CutKind.LM else 0
        stop = part.spec.lm_layers
        self._language = part.language_run(start, stop, ends=True) if start < stop else None
        self._limit = max_new_tokens
        self._embedded: Boundary = {}  # the language model's input, while the prompt is read in chunks
        self._num_read = 0  # tokens of the prompt that were run before `first`
        self._prompt: Boundary = {}
        self._greedy: Greedy | None = None
        self._last = -1

    @property
    def finished(self) -> bool:
        """Tells whether the end token was chosen or the limit is reached."""
        return self._limit <= 0 if self._greedy is None else self._greedy.finished

    @torch.inference_mode()
    def first(self, resume_token_id: int | None = None) -> int:
        """Runs the prefill. Returns the first token id, or `resume_token_id`, which was chosen before."""
        boundary = self._embedded or self._language_input()
        self._crossing, self._embedded = {}, {}
        self._prompt = {name: boundary[name] for name in (IDS, *self._part.family.language_sides) if name in boundary}
        num_tokens = boundary[HIDDEN].shape[0]
        self._greedy = Greedy(self._part.model, boundary.get(IDS), num_tokens, self._limit)
        if self._language is None:
            states_SD = self._normed(boundary[HIDDEN])
        elif self._num_read:
            states_SD = self._language.extend(boundary[HIDDEN][self._num_read :])
        else:
            states_SD = self._language.prefill(boundary)
        return self._choose(states_SD, resume_token_id)

    @property
    def reads_in_chunks(self) -> bool:
        """Tells whether `read` may run the prompt piece by piece before `first`: its tokens see those before them alone."""
        return self._part.family.causal and self._language is not None

    @torch.inference_mode()
    def read(self, num_tokens: int) -> bool:
        """Runs the prompt's next tokens, but not the last, which is `first`'s. Returns True if more than that one is left.

        0 tokens run what lies below the language model alone.
        """
        if not self._embedded:
            self._embedded, self._crossing = self._language_input(), {}
        left = len(self._embedded[HIDDEN]) - 1 - self._num_read
        if taken := min(num_tokens, left):
            assert self._language is not None, "only layers of the language model read a prompt"
            self._language.extend(self._embedded[HIDDEN][self._num_read : self._num_read + taken])
            self._num_read += taken
        return left > taken

    @torch.inference_mode()
    def next(self, boundary: Boundary | None, resume_token_id: int | None = None) -> int:
        """Returns the next token id, from the last one or at lm:k from the device's boundary of it; or `resume_token_id`.

        Raises ProtocolError.
        """
        assert self._greedy is not None, "first() comes first"
        if (boundary is not None) != (self._cut.kind is CutKind.LM):
            raise ProtocolError(f"At the cut {self._cut} a step came with the wrong tensors.")
        if boundary is not None:
            check_step(self._part, boundary)
            states_1D = boundary[HIDDEN].to(self._part.device)
        else:
            with self._part.clock.stage("embed"):
                last = torch.tensor([self._last], device=self._part.device)
                states_1D = self._part.family.embed(self._part.model, last)
        return self._choose(
            self._language.step(states_1D) if self._language else self._normed(states_1D), resume_token_id
        )

    @property
    def last_token_id(self) -> int:
        """The token that was chosen last; the next step runs it."""
        return self._last

    @property
    def most_tokens(self) -> int:
        """How many tokens the prompt and the longest answer have together. Known after `first`."""
        assert self._greedy is not None, "first() comes first"
        return self._greedy.most_tokens

    def hand_over(self) -> LanguageCache:
        """Returns the caches after `first`, for a decoder of many runs: `choose` and not `next` is called from then on."""
        first_layer = self._cut.layers if self._cut.kind is CutKind.LM else 0
        if self._language is None:
            return LanguageCache(first_layer, [], 0, 0)
        return self._language.hand_over(first_layer)

    def check_step(self, boundary: Boundary) -> None:
        """Checks the device's boundary of the last token, at lm:k. Raises ProtocolError."""
        check_step(self._part, boundary)

    def choose(self, logits_V: torch.Tensor, resume_token_id: int | None = None) -> int:
        """Returns the next token id by its logits; or `resume_token_id`, which was chosen before."""
        assert self._greedy is not None, "first() comes first"
        self._last = self._greedy.choose(logits_V) if resume_token_id is None else self._greedy.take(resume_token_id)
        return self._last

    def prefix(self) -> Prefix | None:
        """Returns, after `first`, what another question about the picture can go on from; None at `lm:k`."""
        if self._cut.kind is CutKind.LM or self._language is None:  # the device's layers keep their own caches
            return None
        length = picture_end(self._prompt[IDS], self._part.model.config.image_token_id)
        sides = {name: tensor for name, tensor in self._prompt.items() if name != IDS}
        return Prefix(self._prompt[IDS][:length], sides, self._language.kept(length)) if length else None

    def _language_input(self) -> Boundary:
        if self._cut.kind is CutKind.LM:
            return self._crossing
        return _embedded(self._part, self._cut, self._crossing)

    def _normed(self, states_QD: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self._part.family.stack(self._part.model).norm(states_QD)  # type: ignore[operator]
        return normed

    def _choose(self, states_QD: torch.Tensor, resume_token_id: int | None) -> int:
        assert self._greedy is not None
        self._last = (
            self._greedy.choose(self._part.logits(states_QD))
            if resume_token_id is None
            else self._greedy.take(resume_token_id)
        )
        return self._last


class CachedPrefixRun(UpperRun):
    """Runs another question about a picture whose prefix is known: only what follows the picture is run."""

    def __init__(self, part: ModelPart, prefix: Prefix, prompt: Boundary, max_new_tokens: int) -> None:
        super().__init__(part, TOKENS, prompt, max_new_tokens)
        self._prefix = prefix

    @torch.inference_mode()
    def first(self, resume_token_id: int | None = None) -> int:
        """Runs the rest of the prompt behind the cached prefix and returns the answer's first token.

        `resume_token_id` is the token that another node has chosen already, if any.
        """
        assert self._language is not None, "a model has layers above the cut `tokens`"
        part, ids_T = self._part, self._crossing[IDS]
        rest_S = ids_T[len(self._prefix.ids_P) :]
        with part.clock.stage("embed"):
            states_SD = part.family.embed(part.model, rest_S)
        whole = {HIDDEN: states_SD.new_empty((len(ids_T), 0)), IDS: ids_T} | self._prefix.sides
        self._greedy = Greedy(part.model, ids_T, len(ids_T), self._limit)
        return self._choose(self._language.resume(self._prefix.cache, states_SD, whole), resume_token_id)

    def prefix(self) -> Prefix | None:
        """Returns the prefix that the run goes on from, which may be kept again."""
        return self._prefix
