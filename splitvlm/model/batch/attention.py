"""Attention of new tokens of many sequences, one of each or some of a prompt: where caches come into transformers' layers.

transformers calls an attention function by the name in a layer's config. Twins of the layers get this one, which writes each
token's keys and values to its sequence's row and attends over the row. The layers that other code uses stay as they are.

Shape letters: B sequences, H query heads, K key-value heads, G = H / K query heads that share one, L tokens, d a head's width.
Source: transformers AttentionInterface; torch.nn.functional.scaled_dot_product_attention.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from splitvlm.model.batch.arena import CacheArena
from splitvlm.model.language import LanguageRun
from splitvlm.model.slicing import twin

NAME = "splitvlm_decoding"


class RowGroup:
    """Holds sequences `start` to `start` + n of a batch, whose caches lie in one arena."""

    def __init__(self, arena: CacheArena, start: int, rows: Sequence[int], positions: Sequence[int]) -> None:
        """Takes the arena's `rows`, in ascending order; `positions` say where each sequence's new token stands."""
        self._arena = arena
        self._batch = slice(start, start + len(rows))
        self._all = len(rows) == arena.num_rows
        device = arena.keys[0].device
        self._rows_B = torch.tensor(rows, device=device)
        self._positions_B = torch.tensor(positions, device=device)
        self._length = max(positions) + 1
        self._masks: dict[int | None, torch.Tensor] = {}

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """Writes the new keys and values [B, K, 1, d], and returns what the queries [B, H, 1, d] attend to: [n, H, d]."""
        rows_B, length, batch = self._rows_B, self._length, self._batch
        seen = []
        for stored, new in ((self._arena.keys[layer], key), (self._arena.values[layer], value)):
            stored[rows_B, :, self._positions_B] = new[batch, :, 0]
            used = stored[: len(rows_B)] if self._all else stored.index_select(0, rows_B)
            seen.append(used[:, :, :length])
        keys_BKLd, values_BKLd = seen
        query_BKGd = query[batch].unflatten(1, (keys_BKLd.shape[1], -1)).squeeze(3)
        attended = scaled_dot_product_attention(
            query_BKGd, keys_BKLd, values_BKLd, attn_mask=self._mask(window, query.dtype, query.device), scale=scaling
        )
        return attended.flatten(1, 2)

    def _mask(self, window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Returns [n, 1, 1, L]: 0 where a token is seen, minus infinity where it is not."""
        if window not in self._masks:
            places_L, own_B1 = torch.arange(self._length, device=device), self._positions_B[:, None].to(device)
            hidden_BL = places_L > own_B1
            if window is not None:
                hidden_BL |= places_L <= own_B1 - window
            self._masks[window] = torch.zeros(hidden_BL.shape, dtype=dtype, device=device).masked_fill_(
                hidden_BL, -torch.inf
            )[:, None, None]
        return self._masks[window]


class PromptGroup:
    """Holds some tokens of one prompt, `start` to `start` + S of a batch, which see one another and what was read before."""

    def __init__(self, language: LanguageRun, start: int, num_tokens: int) -> None:
        self._language = language
        self._batch = slice(start, start + num_tokens)
        self._mask: torch.Tensor | None = None

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """Appends the new keys and values [B, K, 1, d]; returns what the queries [B, H, 1, d] attend to: [S, H, d]."""
        assert window is None, "families with sliding windows do not read in chunks"
        new_keys, new_values, query_1HSd = (
            part[self._batch, :, 0].transpose(0, 1)[None] for part in (key, value, query)
        )
        keys_1KLd, values_1KLd = self._language.update(new_keys, new_values, layer)
        num_tokens, length = query_1HSd.shape[2], keys_1KLd.shape[2]
        if self._mask is None:
            seen_SL = torch.ones((num_tokens, length), dtype=torch.bool, device=query.device)
            self._mask = seen_SL.tril_(length - num_tokens)
        shared = query_1HSd.shape[1] // keys_1KLd.shape[1]
        attended = scaled_dot_product_attention(
            query_1HSd,
            keys_1KLd.repeat_interleave(shared, dim=1),
            values_1KLd.repeat_interleave(shared, dim=1),
            attn_mask=self._mask,
            scale=scaling,
        )
        return attended[0].transpose(0, 1)


def decoding_twin(stack: nn.Module) -> nn.Module:
    """Returns a twin of a language stack or slice whose layers attend by this module. Weights stay shared."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    layers: Any = stack.layers
    return twin(stack, layers=nn.ModuleList(map(_decoding_layer, layers)))


def _decoding_layer(layer: Any) -> nn.Module:
    attention: nn.Module = twin(layer.self_attn)
    config = copy.copy(layer.self_attn.config)
    config.__dict__["_attn_implementation_internal"] = NAME  # past the setter, which looks for a package of that name
    attention.__dict__["config"] = config
    other: nn.Module = twin(layer, self_attn=attention)
    return other


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    groups: Sequence[RowGroup | PromptGroup],
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Implements transformers' attention function: [B, H, 1, d] -> [B, 1, H, d]."""
    parts = [group.attend(module.layer_idx, query, key, value, scaling, sliding_window) for group in groups]
    return torch.cat(parts)[:, None], None
