"""One step of many answers at once: one forward of the language model's layers above each cut, one of the head.

A sequence enters when its prompt was read (`UpperRun.first`, or chunk by chunk beside the others), with the caches that this
left. Answers under different cuts share a step only where they have the same layers to run: those at `image`, vision:k and
tokens all do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import nn

from splitvlm.model.batch.arena import CacheArena
from splitvlm.model.batch.attention import PromptGroup, RowGroup, decoding_twin
from splitvlm.model.boundary import HIDDEN, Boundary
from splitvlm.model.language import PromptChunk
from splitvlm.model.part import ModelPart
from splitvlm.model.slicing import forward
from splitvlm.model.upper_run import UpperRun

LEAST_CAPACITY = 128  # tokens of a row; larger rows have twice as many, and so on


class DecodingRow:
    """Holds one sequence in the decoder. `run` chooses its tokens."""

    def __init__(self, run: UpperRun, capacity: int) -> None:
        cache = run.hand_over()
        self.run = run
        self.first_layer = cache.first_layer
        self.layers = cache.layers
        self.length = cache.length  # tokens whose keys and values are known
        self.offset = cache.offset  # of positions
        self.capacity = capacity
        self.index = -1


class BatchedDecoder:
    """Holds the caches of running answers, and moves them on together. Single-threaded."""

    def __init__(self, part: ModelPart) -> None:
        self._part = part
        self._arenas: dict[tuple[int, int], tuple[CacheArena, list[DecodingRow]]] = {}  # by first layer and capacity
        self._slices: dict[int, nn.Module] = {}

    @property
    def cache_bytes(self) -> int:
        """Returns the bytes of the keys and values of all rows that are allocated."""
        return sum(arena.num_bytes for arena, _ in self._arenas.values())

    def add(self, run: UpperRun) -> DecodingRow:
        """Takes a sequence whose first token was chosen."""
        row = DecodingRow(run, capacity_of(run.most_tokens))
        if row.layers:
            arena, rows = self._arenas.setdefault((row.first_layer, row.capacity), (CacheArena(row.capacity), []))
            row.index = arena.add(row.layers)
            row.layers = []
            rows.append(row)
        return row

    def remove(self, row: DecodingRow) -> None:
        """Frees a sequence's cache; a second call does nothing."""
        if row.index < 0:
            return
        arena, rows = self._arenas[row.first_layer, row.capacity]
        arena.remove(row.index)
        rows[row.index] = rows[-1]
        rows[row.index].index = row.index
        rows.pop()
        row.index = -1
        if not rows:
            del self._arenas[row.first_layer, row.capacity]

    @torch.inference_mode()
    def step(self, fed: Mapping[DecodingRow, Boundary | None], chunk: PromptChunk | None = None) -> torch.Tensor:
        """Runs the last token of each sequence, and a chunk of a prompt beside them where there is one.

        `fed` gives at lm:k the device's boundary of a sequence's token, which was checked, and None at other cuts. Returns
        logits [B, V] in float32, in the order of `fed`; with a chunk, those of its last token follow: [B + 1, V].
        """
        by_layer: dict[int, list[DecodingRow]] = {chunk.first_layer: []} if chunk else {}
        for row in fed:
            by_layer.setdefault(row.first_layer, []).append(row)
        states: dict[DecodingRow | None, torch.Tensor] = {}  # None: the chunk's last token
        for first_layer, rows in by_layer.items():
            rows.sort(key=lambda row: (row.capacity, row.index))
            ours = chunk if chunk and chunk.first_layer == first_layer else None
            states_ND = self._layers(first_layer, rows, fed, ours)
            states |= zip(rows, states_ND, strict=False)
            if ours:
                states[None] = states_ND[-1]
        wanted = [states[row] for row in fed] + ([states[None]] if chunk else [])
        with self._part.clock.stage("head"):
            logits_BV: torch.Tensor = self._part.model.lm_head(torch.stack(wanted))
            return logits_BV.float()  # all at once: each sequence's choice would do so for itself

    def _layers(
        self,
        first_layer: int,
        rows: Sequence[DecodingRow],
        fed: Mapping[DecodingRow, Boundary | None],
        chunk: PromptChunk | None,
    ) -> torch.Tensor:
        """Returns the states [B + S, D] of rows with the same layers, and of a chunk, after the final norm."""
        part, family = self._part, self._part.family
        states_ND = self._entering(rows, fed, chunk)
        if rows and rows[0].index < 0:  # no layers are left above the cut
            normed: torch.Tensor = family.stack(part.model).norm(states_ND)  # type: ignore[operator]
            return normed
        positions = [family.later_positions(row.length + row.offset, states_ND.device) for row in rows]
        groups: list[RowGroup | PromptGroup] = self._groups(rows)
        if chunk:
            num_tokens = len(chunk.states_SD)
            groups.append(PromptGroup(chunk.language, len(rows), num_tokens))
            positions.append(chunk.language.positions_of_next(num_tokens).transpose(-2, -1))
        output = forward(
            self._slice(first_layer),
            inputs_embeds=states_ND[:, None],
            attention_mask=states_ND.new_zeros((1, 1, 1, 1)),  # in four dimensions transformers makes no other of it
            position_ids=torch.cat(positions, dim=-2),
            past_key_values=None,
            use_cache=False,
            groups=groups,
        )
        for row in rows:
            row.length += 1
        states: torch.Tensor = output.last_hidden_state[:, 0]
        return states

    def _groups(self, rows: Sequence[DecodingRow]) -> list[RowGroup | PromptGroup]:
        """Returns groups of rows in the same arena; `rows` are in the arenas' order."""
        groups: list[RowGroup | PromptGroup] = []
        start = 0
        for _, same in groupby(rows, lambda row: row.capacity):
            alike = list(same)
            groups.append(self._group(alike, start))
            start += len(alike)
        return groups

    def _group(self, rows: Sequence[DecodingRow], start: int) -> RowGroup:
        arena, _ = self._arenas[rows[0].first_layer, rows[0].capacity]
        return RowGroup(arena, start, [row.index for row in rows], [row.length for row in rows])

    def _entering(
        self, rows: Sequence[DecodingRow], fed: Mapping[DecodingRow, Boundary | None], chunk: PromptChunk | None
    ) -> torch.Tensor:
        """Returns what enters the layers: the device's states or the embeddings of the last tokens, then the chunk's states."""
        part = self._part
        entering = [chunk.states_SD] if chunk else []
        steps = [step for step in (fed[row] for row in rows) if step is not None]
        if steps:
            entering[:0] = [step[HIDDEN].to(part.device, part.model.dtype) for step in steps]
        elif rows:
            with part.clock.stage("embed"):
                ids_B = torch.tensor([row.run.last_token_id for row in rows], device=part.device)
                entering.insert(0, part.family.embed(part.model, ids_B))
        return torch.cat(entering)

    def _slice(self, first_layer: int) -> nn.Module:
        if first_layer not in self._slices:
            whole = self._part.slice(first_layer, self._part.spec.lm_layers, True)
            self._slices[first_layer] = decoding_twin(whole)
        return self._slices[first_layer]


def capacity_of(num_tokens: int) -> int:
    """Returns the capacity of the rows that sequences of so many tokens get: a power of two, at least LEAST_CAPACITY."""
    return max(LEAST_CAPACITY, 1 << (num_tokens - 1).bit_length())
