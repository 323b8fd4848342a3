"""The lesson of answers: a model learns to answer questions about pictures, of a new domain beside those it knows.

    P pictures of a step, N their tiles, T tokens of the longest picture with its questions, V visual tokens, D their width

A picture goes through the tower, and through the language model, once for all of its questions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from splitvlm.evaluation.answers import Example
from splitvlm.scenes.batches import IGNORED_LABEL, PackedQuestions, stack
from splitvlm.variants.teacher import seen_tiles, tower_tokens
from splitvlm.variants.tower_lesson import batch_of

PICTURES = 4  # of each group of examples, a step
QUESTIONS = 6  # about each, a step
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
        packed = [
            pack([entry.questions[i] for i in batch_of(len(entry.questions), QUESTIONS, self._seed, step).tolist()])
            for entry in asked
        ]
        ids, positions, labels, mask = (tensor.to(device) for tensor in stack(packed, pad=0))
        return _cross_entropy(self._model, ids, positions, labels, mask, tokens_NVD.flatten(0, 1))

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


def pack(questions: Sequence[tuple[list[int], list[int]]]) -> PackedQuestions:
    """Packs questions about one picture behind what their prompts begin with alike, which holds the picture.

    A question sees that prefix and itself, and its positions go on from the prefix (splitvlm.scenes.batches).
    """
    prompts = [prompt for prompt, _ in questions]
    alike = sum(
        1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*(prompt[:-1] for prompt in prompts), strict=False))
    )
    prefix = prompts[0][:alike]
    packed = PackedQuestions(list(prefix), list(range(alike)), [IGNORED_LABEL] * alike, [0] * alike)
    for block, (prompt, answer) in enumerate(questions, start=1):
        tokens = [*prompt[alike:], *answer[:-1]]
        packed.ids.extend(tokens)
        packed.position_ids.extend(range(alike, alike + len(tokens)))
        packed.labels.extend([IGNORED_LABEL] * (len(prompt) - alike - 1) + answer)
        packed.blocks.extend([block] * len(tokens))
    return packed


def _cross_entropy(
    model: Any,
    ids_PT: torch.Tensor,
    positions_PT: torch.Tensor,
    labels_PT: torch.Tensor,
    mask_P1TT: torch.Tensor,
    visual: torch.Tensor,
) -> torch.Tensor:
    words_PTD = model.get_input_embeddings()(ids_PT)
    places_PT = ids_PT == model.config.image_token_id
    states_PTD = words_PTD.masked_scatter(places_PT[..., None], visual.to(words_PTD.dtype))
    states_PTD = model.model.text_model(
        inputs_embeds=states_PTD, attention_mask=mask_P1TT, position_ids=positions_PT, use_cache=False
    ).last_hidden_state
    has_label = labels_PT != IGNORED_LABEL
    logits = model.lm_head(states_PTD[has_label]).float()
    return functional.cross_entropy(logits, labels_PT[has_label])
