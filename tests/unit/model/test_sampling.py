"""The rule of token choice against transformers' own generate, torch's softmax, and its own promise about draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, Sampling
from splitvlm.errors import UsageError
from splitvlm.model.loading import load_device, load_whole
from splitvlm.model.processors import prompt_inputs
from splitvlm.model.prompt import Prompt
from splitvlm.model.sampling import check_crossing, drawn, reads_prompt, uniform
from tests.samples import tiny_model
from tests.tiny_models import FAMILIES, picture

QUESTION, NUM_TOKENS = "How many cells are infected?", 8
PICTURE = picture(90, 60)
NUM_DRAWS = 4_000


class DrawnOnly:
    """A logits processor that leaves of the processed scores the token that the seed and the position draw."""

    def __init__(self, seed: int, num_prompt_tokens: int) -> None:
        self._seed, self._num_prompt_tokens = seed, num_prompt_tokens

    def __call__(self, ids_BT: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        share = uniform(self._seed, ids_BT.shape[1] - self._num_prompt_tokens)
        sums_V = torch.softmax(scores_BV[0].double(), dim=-1).cumsum(dim=-1)
        token_id = int((sums_V <= share).sum())
        only_BV = torch.full_like(scores_BV, -torch.inf)
        only_BV[0, token_id] = 0.0
        return only_BV


def generated(family: str, sampling: Sampling) -> list[int]:
    """Returns the answer of transformers' own `generate` with its own processors, and the draw as the last of them."""
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    model, processor = load_whole(tiny_model(family), dtype="float32")
    inputs: dict[str, Any] = dict(prompt_inputs(processor, Prompt.about(PICTURE, QUESTION)))
    num_prompt_tokens = inputs["input_ids"].shape[1]
    rules: Any = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
            TemperatureLogitsWarper(sampling.temperature),
            TopKLogitsWarper(sampling.top_k),
            TopPLogitsWarper(sampling.top_p),
            DrawnOnly(sampling.seed, num_prompt_tokens),
        ]
    )
    with torch.inference_mode():
        answer = model.generate(**inputs, do_sample=False, max_new_tokens=NUM_TOKENS, logits_processor=rules)
    token_ids: list[int] = answer[0, num_prompt_tokens:].tolist()
    return token_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sampled_answer_is_that_of_transformers_with_the_same_draws(family: str) -> None:
    sampling = Sampling(temperature=1.3, top_p=0.9, top_k=100, repetition_penalty=1.2, seed=11)
    part = load_device(tiny_model(family), [DEVICE], threads=1)
    assert list(part.generate(Prompt.about(PICTURE, QUESTION), NUM_TOKENS, sampling=sampling)) == generated(
        family, sampling
    )


def test_draws_follow_the_softmax() -> None:
    scores_V = torch.tensor([1.0, -2.0, 0.5, -torch.inf, 2.0, 0.0, 1.5])
    expected_V = NUM_DRAWS * torch.softmax(scores_V.double(), dim=-1).numpy()
    token_ids = [drawn(scores_V.double().numpy(), uniform(3, position)) for position in range(NUM_DRAWS)]
    seen_V = np.bincount(token_ids, minlength=len(scores_V))
    assert seen_V[3] == 0
    possible_V = expected_V > 0
    chi_square = ((seen_V - expected_V)[possible_V] ** 2 / expected_V[possible_V]).sum()
    assert chi_square < 20.5  # 5 degrees of freedom: above it once in a thousand; the seed is fixed


def test_numbers_are_uniform_over_seeds_too() -> None:
    shares = np.array([uniform(seed, 0) for seed in range(NUM_DRAWS)])
    counts = np.histogram(shares, bins=10, range=(0, 1))[0]
    chi_square = ((counts - NUM_DRAWS / 10) ** 2 / (NUM_DRAWS / 10)).sum()
    assert chi_square < 27.9  # 9 degrees of freedom: above it once in a thousand; the seeds are fixed


def test_a_number_depends_on_seed_and_position_alone_and_stays_what_it_was() -> None:
    assert uniform(7, 5) == uniform(7, 5)
    assert len({uniform(seed, position) for seed in (0, 1, 2**64 - 1) for position in range(100)}) == 300


def test_a_draw_at_the_edges_is_a_token_that_is_possible() -> None:
    scores_V = np.array([-np.inf, 0.0, 0.0, -np.inf])
    assert drawn(scores_V, 0.0) == 1
    assert drawn(scores_V, 0.5) == 2
    assert drawn(scores_V, 1 - 2.0**-53) == 2
    assert drawn(scores_V, 1.0) == 2, "where a product was rounded up to the sum"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_repetition_penalty_is_refused_where_the_prompt_s_ids_do_not_cross(family: str) -> None:
    model = load_device(tiny_model(family), [DEVICE], threads=1).model
    penalised, inside = Sampling(repetition_penalty=1.2), Cut.parse("lm:1")
    for cut in (IMAGE, Cut.parse("vision:1"), TOKENS, DEVICE):
        check_crossing(model, cut, penalised)
    check_crossing(model, inside, Sampling(temperature=1.0, top_p=0.5))
    if reads_prompt(model):
        check_crossing(model, inside, penalised)
        return
    with pytest.raises(UsageError, match="repetition penalty"):
        check_crossing(model, inside, penalised)
