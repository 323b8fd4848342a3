"""The lesson of answers: a model learns to answer questions about pictures, of a new domain beside those it knows.

    P pictures of a step, Q questions about each, T tokens of the longest prompt with its answer, V visual tokens, D their width

A picture goes through the tower once for all of its questions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from splitvlm.evaluation.answers import Example
from splitvlm.variants.teacher import seen_tiles, tower_tokens
from splitvlm.variants.tower_lesson import batch_of

PICTURES = 6  # of each group of examples, a step
QUESTIONS = 4  # about each, a step
_IGNORED = -100  # of tokens without loss (torch's `ignore_index`)
Tokens = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Asked:
    """Holds one picture's tiles [n, 3, H, W] and its questions: prompts' ids, and the answers' with the end token."""

    tiles_NCHW: torch.Tensor
    questions: tuple[tuple[list[int], list[int]], ...]


class AnswerLesson:
    """Teaches what of a model requires gradients. Each step shows pictures of every group."""

    def __init__(self, model: Any, groups: Sequence[Sequence[Asked]], seed: int, tokens: Tokens | None = None) -> None:
        """Takes a model of the family Idefics3; `tokens` makes visual tokens of tiles, by default the model's own tower."""
        self._model = model
        self._groups = [list(group) for group in groups if group]
        self._seed = seed
        self._tokens = tokens or (lambda tiles: tower_tokens(model, tiles))
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def parameters(self) -> Sequence[nn.Parameter]:
        """Returns what is trained."""
        return self._parameters

    def loss(self, step: int) -> torch.Tensor:
        """Returns the mean cross-entropy of the answers' tokens."""
        device = self._parameters[0].device
        asked = [
            group[number]
            for salt, group in enumerate(self._groups)
            for number in batch_of(len(group), PICTURES, self._seed + salt, step).tolist()
        ]
        tokens_NVD = self._tokens(torch.cat([entry.tiles_NCHW.to(device).float() for entry in asked]))
        by_picture = tokens_NVD.split([len(entry.tiles_NCHW) for entry in asked])
        chosen = [
            (tokens, *entry.questions[number])
            for tokens, entry in zip(by_picture, asked, strict=True)
            for number in batch_of(len(entry.questions), QUESTIONS, self._seed, step).tolist()
        ]
        ids_BT, labels_BT = (rows.to(device) for rows in _rows([(prompt, answer) for _, prompt, answer in chosen]))
        visual = torch.cat([tokens.flatten(0, 1) for tokens, _, _ in chosen])
        return _cross_entropy(self._model, ids_BT, labels_BT, visual)

    def after_step(self) -> None:
        """Restores nothing: whatever is trained may change."""


def asked_of(processor: Any, examples: Sequence[Example]) -> list[Asked]:
    """Returns the examples picture by picture, as the processor makes prompts of them; padded tiles' pictures are left out."""
    by_picture: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        by_picture[id(example.image)].append(example)
    asked = []
    for group in by_picture.values():
        tiles_NCHW = seen_tiles(processor, [group[0].image])
        questions = tuple(_tokenized(processor, example) for example in group)
        placed = questions[0][0].count(processor.image_token_id)
        if len(tiles_NCHW) and placed % len(tiles_NCHW) == 0:
            asked.append(Asked(tiles_NCHW.half(), questions))
    return asked


def _tokenized(processor: Any, example: Example) -> tuple[list[int], list[int]]:
    """Returns the ids of the prompt and of the answer, which ends as the model's answers end."""
    content = [{"type": "image", "image": example.image}, {"type": "text", "text": example.question}]
    messages = [{"role": "user", "content": content}]
    made = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    answer = processor.tokenizer.encode(f" {example.answer}", add_special_tokens=False)
    return list(made["input_ids"][0]), [*answer, processor.tokenizer.eos_token_id]


def _rows(questions: Sequence[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and labels [B, T], padded on the right; the label of a token is the one that should follow it."""
    longest = max(len(prompt) + len(answer) - 1 for prompt, answer in questions)
    ids = torch.zeros(len(questions), longest, dtype=torch.long)
    labels = torch.full((len(questions), longest), _IGNORED)
    for row, (prompt, answer) in enumerate(questions):
        tokens = [*prompt, *answer[:-1]]
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, len(prompt) - 1 : len(tokens)] = torch.tensor(answer)
    return ids, labels


def _cross_entropy(model: Any, ids_BT: torch.Tensor, labels_BT: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
    """Padding stands behind every answer and is masked by causality alone; its own states reach no loss."""
    words_BTD = model.get_input_embeddings()(ids_BT)
    places_BT = ids_BT == model.config.image_token_id
    states_BTD = words_BTD.masked_scatter(places_BT[..., None], visual.to(words_BTD.dtype))
    states_BTD = model.model.text_model(inputs_embeds=states_BTD, use_cache=False).last_hidden_state
    has_label = labels_BT != _IGNORED
    logits = model.lm_head(states_BTD[has_label]).float()
    return functional.cross_entropy(logits, labels_BT[has_label])
