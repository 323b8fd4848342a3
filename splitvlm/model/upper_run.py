"""Runs what is above the cut for one request: the prompt's prefill, then a token at a time, with caches of its own.

The cloud part makes runs at every other cut, the device part at the cut `device`.
"""

from __future__ import annotations

import torch

from splitvlm.domain import GREEDY, Cut, CutKind, Sampling
from splitvlm.errors import PrefixEvicted, ProtocolError
from splitvlm.model.boundary import HIDDEN, IDS, Boundary
from splitvlm.model.boundary_checks import check_step
from splitvlm.model.language import LanguageCache, PromptChunk
from splitvlm.model.part import ModelPart
from splitvlm.model.prefix import Prefix, images_end, merged_sides
from splitvlm.model.sampling import TokenChoice


class UpperRun:
    """Runs one request above the cut, with its own caches, which go when it is dropped."""

    def __init__(
        self, part: ModelPart, cut: Cut, crossing: Boundary, max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> None:
        self._part, self._cut, self._crossing = part, cut, crossing
        start = cut.layers if cut.kind is CutKind.LM else 0
        stop = part.spec.lm_layers
        self._language = part.language_run(start, stop, ends=True) if start < stop else None
        self._limit = max_new_tokens
        self._sampling = sampling
        self._embedded: Boundary = {}  # the language model's input, while the prompt is read in chunks
        self._num_read = 0  # tokens of the prompt that were run before `first`
        self._prompt: Boundary = {}
        self._choice: TokenChoice | None = None
        self._last = -1

    @property
    def finished(self) -> bool:
        """Tells whether the end token was chosen or the limit is reached."""
        return self._limit <= 0 if self._choice is None else self._choice.finished

    @torch.inference_mode()
    def first(self, resume_token_id: int | None = None) -> int:
        """Runs the prefill. Returns the first token id, or `resume_token_id`, which was chosen before."""
        boundary = self._language_input()
        self._crossing = {}
        self._know_prompt(boundary)
        states_SD = self._language.prefill(boundary) if self._language else self._normed(boundary[HIDDEN])
        return self._choose(states_SD, resume_token_id)

    @property
    def reads_in_chunks(self) -> bool:
        """Tells whether the prompt may be run piece by piece: its tokens see those before them alone."""
        return self._language is not None and self._language.runs_in_chunks

    @torch.inference_mode()
    def prepare(self) -> None:
        """Runs what lies below the language model, before `next_chunk` and instead of `first`."""
        assert self._language is not None, "only layers of the language model read a prompt"
        self._embedded, self._crossing = self._language_input(), {}
        self._language.begin_chunks(self._embedded)

    @property
    def num_unread(self) -> int:
        """Returns how many tokens of the prompt `next_chunk` has not given yet."""
        return len(self._embedded[HIDDEN]) - self._num_read

    def next_chunk(self, num_tokens: int) -> PromptChunk:
        """Returns the prompt's next tokens, at most `num_tokens`, for whoever runs them through the language model."""
        assert self._language is not None, "only layers of the language model read a prompt"
        states_SD = self._embedded[HIDDEN][self._num_read : self._num_read + num_tokens]
        self._num_read += len(states_SD)
        first_layer = self._cut.layers if self._cut.kind is CutKind.LM else 0
        return PromptChunk(first_layer, self._language, states_SD)

    def first_of(self, logits_V: torch.Tensor, resume_token_id: int | None = None) -> int:
        """Returns the first token id by the logits of the prompt's last token, when all chunks were run."""
        assert self._language is not None, "only layers of the language model read a prompt"
        self._language.keep_prompt()
        boundary, self._embedded = self._embedded, {}
        self._know_prompt(boundary)
        return self.choose(logits_V, resume_token_id)

    def _know_prompt(self, boundary: Boundary) -> None:
        """Keeps of the language model's input what later questions and the choice of tokens need."""
        self._prompt = {name: boundary[name] for name in (IDS, *self._part.family.language_sides) if name in boundary}
        num_tokens = boundary[HIDDEN].shape[0]
        self._choice = self._token_choice(boundary.get(IDS), num_tokens)

    def _token_choice(self, prompt_ids: torch.Tensor | None, num_prompt_tokens: int) -> TokenChoice:
        matcher = self._part.matcher(self._sampling)
        return TokenChoice(self._part.model, prompt_ids, num_prompt_tokens, self._limit, self._sampling, matcher)

    @torch.inference_mode()
    def next(self, boundary: Boundary | None, resume_token_id: int | None = None) -> int:
        """Returns the next token id, from the last one or at lm:k from the device's boundary of it; or `resume_token_id`.

        Raises ProtocolError.
        """
        assert self._choice is not None, "first() comes first"
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
        """Returns the token that was chosen last; the next step runs it."""
        return self._last

    @property
    def most_tokens(self) -> int:
        """Returns how many tokens the prompt and the longest answer have together. Known after `first`."""
        assert self._choice is not None, "first() comes first"
        return self._choice.most_tokens

    def hand_over(self) -> LanguageCache:
        """Returns the caches after `first`, for a decoder of many runs: `choose` and not `next` is called from then on."""
        first_layer = self._cut.layers if self._cut.kind is CutKind.LM else 0
        language, self._language = self._language, None  # its caches are not held twice
        if language is None:
            return LanguageCache(first_layer, [], 0, 0)
        return language.hand_over(first_layer)

    def check_step(self, boundary: Boundary) -> None:
        """Checks the device's boundary of the last token, at lm:k. Raises ProtocolError."""
        check_step(self._part, boundary)

    def choose(self, logits_V: torch.Tensor, resume_token_id: int | None = None) -> int:
        """Returns the next token id by its logits; or `resume_token_id`, which was chosen before."""
        assert self._choice is not None, "first() comes first"
        self._last = self._choice.choose(logits_V) if resume_token_id is None else self._choice.take(resume_token_id)
        return self._last

    def prefix(self) -> Prefix | None:
        """Returns, after `first`, what another prompt that begins alike can go on from; None at `lm:k`."""
        if self._cut.kind is CutKind.LM or self._language is None:  # the device's layers keep their own caches
            return None
        if not self._part.family.shares_prefixes:
            return None
        ids_T, image_token = self._prompt[IDS], self._part.model.config.image_token_id
        sides = {name: tensor for name, tensor in self._prompt.items() if name != IDS}
        num_image_tokens = int((ids_T == image_token).sum())
        return Prefix(ids_T, images_end(ids_T, image_token), num_image_tokens, sides, self._language.prompt_cache)

    def _language_input(self) -> Boundary:
        if self._cut.kind is CutKind.LM:
            return self._crossing
        return self._part.language_input(self._cut, self._crossing)

    def _normed(self, states_QD: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self._part.family.stack(self._part.model).norm(states_QD)  # type: ignore[operator]
        return normed

    def _choose(self, states_QD: torch.Tensor, resume_token_id: int | None) -> int:
        assert self._choice is not None
        self._last = (
            self._choice.choose(self._part.logits(states_QD))
            if resume_token_id is None
            else self._choice.take(resume_token_id)
        )
        return self._last


class CachedPrefixRun(UpperRun):
    """Runs a prompt that begins as an earlier one did: only what follows the shared tokens is run."""

    def __init__(
        self,
        part: ModelPart,
        prefix: Prefix,
        cut: Cut,
        crossing: Boundary,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
    ) -> None:
        super().__init__(part, cut, crossing, max_new_tokens, sampling)
        self._cached: Prefix | None = prefix

    @torch.inference_mode()
    def first(self, resume_token_id: int | None = None) -> int:
        """Runs the rest of the prompt behind the cached prefix and returns the answer's first token.

        `resume_token_id` is the token that another node has chosen already, if any. Raises PrefixEvicted, ProtocolError.
        """
        assert self._language is not None, "a model has layers above the cut `tokens`"
        assert self._cached is not None, "first() comes before hand_over()"
        part, cached, crossing = self._part, self._cached, self._crossing
        ids_T = crossing["input_ids"][0] if self._cut.kind is CutKind.IMAGE else crossing[IDS]
        num_shared = cached.num_shared(ids_T)
        if not num_shared:
            raise PrefixEvicted("The prompt does not begin as the cached one did.", advice="Send all of it.")
        visual = self._visual(cached, ids_T)
        self._crossing = {}
        with part.clock.stage("embed"):
            states_SD = part.family.embed(part.model, ids_T[num_shared:], visual.pop(HIDDEN, None))
        whole = {HIDDEN: states_SD.new_empty((len(ids_T), 0)), IDS: ids_T} | visual
        self._know_prompt(whole)
        return self._choose(self._language.resume(cached.cache, states_SD, whole), resume_token_id)

    def hand_over(self) -> LanguageCache:
        """Returns the caches, and lets go of the prefix, so that its memory is free as soon as nobody keeps it."""
        self._cached = None
        return super().hand_over()

    def _visual(self, cached: Prefix, ids_T: torch.Tensor) -> Boundary:
        """Returns `hidden`, the visual tokens that the prefix lacks, if any, and the side tensors of the whole prompt."""
        part, num_image_tokens = self._part, int((ids_T == self._part.model.config.image_token_id).sum())
        num_new = num_image_tokens - cached.num_image_tokens
        if not num_new:
            return dict(cached.sides)
        visual = part.visual(self._cut, self._crossing)
        states_VD = visual.get(HIDDEN)
        if self._cut.kind is CutKind.IMAGE and states_VD is not None:  # of all images: the cached ones' come first
            sides, states_VD = visual, states_VD[cached.num_image_tokens :]
        else:
            sides = merged_sides(part.family.language_sides, cached.sides, visual)
        if states_VD is None or len(states_VD) != num_new:
            raise ProtocolError(f"The prompt has {num_new} further places for visual tokens, and others came.")
        return {HIDDEN: states_VD} | {name: sides[name] for name in part.family.language_sides if name in sides}
