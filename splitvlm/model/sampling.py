"""The rule of token choice: constraint, transformers' own logits processors, then the most likely token or a draw.

The rules of the model's own generation config come first, then those of the request's `Sampling`, in transformers' order.
A draw comes from a counter-based generator (Philox; Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)
under the seed and the token's position in the answer, and from nothing else: a node that takes over, a hedge, and a batch of
others give the token that a lone run gives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splitvlm.domain import Cut, CutKind, Sampling
from splitvlm.errors import UsageError
from splitvlm.grammar.grammar import Matcher
from splitvlm.model.logprobs import with_logprobs

_UNIFORM_BITS = 53  # of a float64's significand


class TokenChoice:
    """Chooses one answer's tokens. Stands where the head is; one per request.

    `prompt_ids` [T] may be None where `reads_prompt(model)` is false. `matcher` follows the answer under the constraint of
    `sampling`.
    """

    def __init__(
        self,
        model: Any,
        prompt_ids: torch.Tensor | None,
        num_prompt_tokens: int,
        limit: int,
        sampling: Sampling,
        matcher: Matcher | None = None,
    ) -> None:
        """Raises UsageError where `sampling` reads the prompt's ids, which are not there."""
        if prompt_ids is None and sampling.penalises:
            raise _unread_prompt()
        device = model.lm_head.weight.device
        config = _generation_config(model, num_prompt_tokens, limit, device)
        self._processors = _processors(model, config, num_prompt_tokens, device)
        self._processors.extend(_sampling_processors(sampling))
        self._sampling = sampling
        self._matcher = matcher
        self._position = 0  # of the next token in the answer
        eos = config._eos_token_tensor
        self._eos = set() if eos is None else set(eos.tolist())
        ids = prompt_ids if prompt_ids is not None else torch.zeros(num_prompt_tokens, dtype=torch.long)
        self._ids_BT = ids.to(device)[None]  # the prompt and the answer so far, which processors read
        self._num_tokens = num_prompt_tokens  # so many
        self._left = limit
        self.finished = limit <= 0

    @property
    def most_tokens(self) -> int:
        """Returns how many tokens the prompt and the longest answer have together."""
        return self._num_tokens + self._left

    def choose(self, logits_V: torch.Tensor) -> int:
        """Returns the next token by its logits; afterwards `finished` says whether it was the last.

        It is a ChosenToken where log-probabilities are asked for. Raises UsageError for a constraint that became too complex.
        """
        scores_V = self._scores(logits_V)
        if self._sampling.draws:
            draw = uniform(self._sampling.seed, self._position)
            token = drawn(scores_V.to("cpu", torch.float64).numpy(), draw)
        else:
            token = _most_likely(scores_V)
        told = self._matcher.told if self._matcher else ()
        if self._sampling.top_logprobs is not None or told:
            token = with_logprobs(token, logits_V, self._sampling.top_logprobs or 0, told)
        return self.take(token)

    def _scores(self, logits_V: torch.Tensor) -> torch.Tensor:
        """Returns the logits as rules and constraint change them; themselves where nothing does."""
        if self._matcher is None:
            return self._processed(logits_V)
        refused_V = torch.from_numpy(~self._matcher.allowed()).to(logits_V.device)
        allowed_V = logits_V.to(torch.float32).masked_fill(refused_V, -torch.inf)
        scores_V = self._processed(allowed_V).masked_fill(refused_V, -torch.inf)  # a rule may force a token
        return (
            allowed_V if scores_V.max() == -torch.inf else scores_V
        )  # the constraint stands above the model's own rules

    def _processed(self, logits_V: torch.Tensor) -> torch.Tensor:
        if not self._processors:
            return logits_V
        scores_V: torch.Tensor = self._processors(self._ids_BT, logits_V[None].to(dtype=torch.float32, copy=True))[0]
        return scores_V

    def take(self, token: int) -> int:
        """Takes a token that was chosen elsewhere, by a run that could not finish.

        Raises ProtocolError for one that the constraint does not allow.
        """
        if self._matcher is not None:
            self._matcher.take(token)
        if self._processors:
            self._ids_BT = torch.cat([self._ids_BT, self._ids_BT.new_tensor([[token]])], dim=-1)
        self._num_tokens += 1
        self._left -= 1
        self._position += 1
        self.finished = self._left <= 0 or token in self._eos
        return token


def _most_likely(scores_V: torch.Tensor) -> int:
    """Returns the first of the largest scores' ids. numpy finds it several times as fast as torch on a CPU."""
    if scores_V.device.type == "cpu":
        return int(scores_V.to(torch.float32).numpy().argmax())
    return int(torch.argmax(scores_V))


def uniform(seed: int, position: int) -> float:
    """Returns the number in [0, 1) that decides the token at a position of the answer, counted from 0."""
    bits = np.random.Philox(key=seed, counter=position).random_raw()
    return float(int(bits) >> (64 - _UNIFORM_BITS)) / 2.0**_UNIFORM_BITS


def drawn(scores_V: NDArray[np.float64], share: float) -> int:
    """Returns the token id at which the softmax of the scores [V], summed in the order of ids, passes `share`, from [0, 1)."""
    weights_V = np.exp(scores_V - scores_V.max())
    sums_V = np.cumsum(weights_V)
    token_id = int(np.searchsorted(sums_V, share * sums_V[-1], side="right"))
    last_possible = int(np.searchsorted(sums_V, sums_V[-1], side="left"))  # where the product was rounded up to the sum
    return min(token_id, last_possible)


def check_crossing(model: Any, cut: Cut, sampling: Sampling) -> None:
    """Raises UsageError for a repetition penalty at a cut where the prompt's ids stay on the device."""
    if sampling.penalises and cut.kind is CutKind.LM and not reads_prompt(model):
        raise _unread_prompt()


def end_token_ids(model: Any) -> frozenset[int]:
    """Returns the ids that end an answer, by the model's own generation config."""
    ends = _generation_config(model, 1, 1, torch.device("cpu"))._eos_token_tensor
    return frozenset() if ends is None else frozenset(map(int, ends.tolist()))


def reads_prompt(model: Any) -> bool:
    """Tells whether some rule (such as Qwen's repetition penalty) reads the prompt's ids, which then must cross at lm:k too."""
    return bool(reads_rules(model))


def reads_rules(model: Any) -> list[str]:
    """Returns the names of the rules beside the largest logit by which tokens are chosen; empty where it decides alone."""
    device = torch.device("cpu")
    processors = _processors(model, _generation_config(model, 1, 1, device), 1, device)
    return [type(processor).__name__ for processor in processors]


def _unread_prompt() -> UsageError:
    return UsageError(
        "A repetition penalty reads the prompt, whose ids do not leave the device at the cuts lm:k.",
        advice="Ask under another plan, or without repetition_penalty.",
    )


def _sampling_processors(sampling: Sampling) -> list[Any]:
    """Returns transformers' processors of a request, in the order in which its `generate` applies them."""
    from transformers import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    processors: list[Any] = []
    if sampling.penalises:
        processors.append(RepetitionPenaltyLogitsProcessor(penalty=sampling.repetition_penalty))
    if sampling.draws:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            processors.append(TopKLogitsWarper(top_k=sampling.top_k))
        if sampling.top_p < 1:
            processors.append(TopPLogitsWarper(top_p=sampling.top_p))
    return processors


def _generation_config(model: Any, num_prompt_tokens: int, limit: int, device: torch.device) -> Any:
    config, _ = model._prepare_generation_config(None, do_sample=False, max_new_tokens=limit)
    config.max_length = num_prompt_tokens + limit
    model._prepare_special_tokens(config, True, device=device)
    return config


def _processors(model: Any, config: Any, num_prompt_tokens: int, device: torch.device) -> Any:
    return model._get_logits_processor(config, input_ids_seq_length=num_prompt_tokens, device=device, model_kwargs={})
