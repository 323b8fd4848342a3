"""One request's run through a slice of the language model, with its own cache."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from splitvlm.model.boundary import HIDDEN, Boundary
from splitvlm.model.families.family import Family
from splitvlm.model.slicing import forward

if TYPE_CHECKING:
    from transformers import DynamicCache


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Holds one layer's cache of one sequence: its tokens from `first` on. Layers with sliding windows hold the last ones."""

    keys: torch.Tensor  # [1, heads, n, width of a head]
    values: torch.Tensor  # alike
    first: int = 0


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """Holds some tokens of a prompt that are to be run through the language model's layers from `first_layer` on."""

    first_layer: int
    language: LanguageRun  # its caches grow
    states_SD: torch.Tensor


@dataclass(frozen=True, slots=True)
class LanguageCache:
    """Holds what a run through the language model's layers from `first_layer` on has cached."""

    first_layer: int  # from 0
    layers: list[LayerCache]  # none where the device runs all layers
    length: int  # tokens
    offset: int  # what is added to a later token's place for its position


class LanguageRun:
    """Runs a prefill once, then one token at a time. `stack` is the model's language stack or a slice of it.

    All state of the request is here (the cache, its length, the offset of positions); the modules stay untouched.
    """

    def __init__(self, family: Family, model: Any, stack: nn.Module) -> None:
        from transformers import DynamicCache

        self._family, self._model, self._stack = family, model, stack
        self._cache = DynamicCache(config=stack.config)
        self._prompt: DynamicCache | None = None  # as it was after the prefill: layers with sliding windows whole
        self._positions: torch.Tensor | None = None  # of the whole prompt, while it is run in chunks
        self._length = 0
        self._offset = 0

    def prefill(self, boundary: Boundary) -> torch.Tensor:
        """Runs `hidden` [T, D] with what tells positions and masks. Returns states [T, D]."""
        states_BTD = boundary[HIDDEN][None]
        positions, self._offset = self._family.positions(self._model, boundary)
        mask = self._family.prompt_mask(self._model, self._stack, states_BTD, self._cache, positions, boundary)
        self._length = states_BTD.shape[1]
        for layer in self._sliding():
            layer.activate_past_recording()
        states_TD = self._run(states_BTD, positions, mask)
        self._prompt = _copied(self._cache)
        for layer in self._sliding():
            layer.crop(0)
            layer.record_past = False
        return states_TD

    def extend(self, states_SD: torch.Tensor) -> torch.Tensor:
        """Runs the prompt's next S tokens, in a causal family and instead of `prefill`. Returns states [S, D]."""
        start, self._length = self._length, self._length + states_SD.shape[0]
        positions = torch.arange(start, self._length, device=states_SD.device)[None]
        mask = torch.ones((1, self._length), dtype=torch.long, device=states_SD.device)
        states_out_SD = self._run(states_SD[None], positions, mask)
        self._prompt = _copied(self._cache)
        return states_out_SD

    def resume(self, cache: DynamicCache, states_SD: torch.Tensor, boundary: Boundary) -> torch.Tensor:
        """Runs the last S of T tokens, the others being the first in `cache`, instead of `prefill`. Returns states [S, D].

        `boundary` tells positions of all T; of its `hidden` only the length counts.
        """
        self._length = boundary[HIDDEN].shape[0]
        self._cache = _shortened(cache, self._length - states_SD.shape[0])
        for layer in self._sliding():
            layer.activate_past_recording()
        positions, self._offset = self._family.positions(self._model, boundary)
        mask = torch.ones((1, self._length), dtype=torch.long, device=states_SD.device)
        states_out_SD = self._run(states_SD[None], positions[..., -states_SD.shape[0] :], mask)
        self._prompt = _copied(self._cache)
        for layer in self._sliding():
            layer.crop(0)
            layer.record_past = False
        return states_out_SD

    @property
    def prompt_cache(self) -> DynamicCache:
        """Returns the caches of the whole prompt, once it was run; layers with sliding windows hold all of it."""
        assert self._prompt is not None, "prefill comes first"
        return _copied(self._prompt)

    @property
    def runs_in_chunks(self) -> bool:
        """Tells whether a prompt may be run chunk by chunk: tokens see all of those before them, and no others."""
        return self._family.causal and not self._sliding()

    def begin_chunks(self, boundary: Boundary) -> None:
        """Takes what tells the positions of the whole prompt, before its first chunk is run."""
        self._positions, self._offset = self._family.positions(self._model, boundary)

    def positions_of_next(self, num_tokens: int) -> torch.Tensor:
        """Returns position ids of the prompt's next tokens, and counts them as run: [1, S], or [3, 1, S] on three axes."""
        assert self._positions is not None, "begin_chunks comes first"
        start, self._length = self._length, self._length + num_tokens
        return self._positions[..., start : self._length]

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends keys and values [1, heads, S, width] to a layer's cache; returns all of them."""
        all_keys, all_values = self._cache.update(keys, values, layer)
        return all_keys, all_values

    def keep_prompt(self) -> None:
        """Notes that the whole prompt was run, for `kept`."""
        self._prompt = _copied(self._cache)

    def hand_over(self, first_layer: int) -> LanguageCache:
        """Returns the caches, for whoever makes the steps from now on: this run makes none any more."""
        layers = [
            LayerCache(layer.keys, layer.values, self._length - layer.keys.shape[2]) for layer in self._cache.layers
        ]
        self._prompt = None
        return LanguageCache(first_layer, layers, self._length, self._offset)

    def step(self, states_1D: torch.Tensor) -> torch.Tensor:
        """States [1, D] of the next token -> states [1, D]."""
        positions = self._family.later_positions(self._length + self._offset, states_1D.device)
        self._length += 1
        mask = torch.ones((1, self._length), dtype=torch.long, device=states_1D.device)
        return self._run(states_1D[None], positions, mask)

    def _sliding(self) -> list[Any]:
        return [layer for layer in self._cache.layers if layer.is_sliding]

    def _run(self, states_BQD: torch.Tensor, positions: torch.Tensor, mask: Any) -> torch.Tensor:
        output = forward(
            self._stack,
            inputs_embeds=states_BQD,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        last_states_QD: torch.Tensor = output.last_hidden_state[0]
        return last_states_QD


def _shortened(cache: DynamicCache, length: int) -> DynamicCache:
    """Returns the caches of the first `length` tokens; layers with sliding windows hold all of them."""
    shortened = _copied(cache)
    num_after = cache.get_seq_length() - length
    for layer in shortened.layers:
        if num_after:
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]
            if layer.is_sliding:
                layer.cumulative_length = length
    return shortened


def _copied(cache: DynamicCache) -> DynamicCache:
    """Returns a cache with its own list of layers; the tensors are shared, for a layer that grows makes new ones."""
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    return other
