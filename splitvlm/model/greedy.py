"""The rule of token choice: greedy, under the model's own generation config, by transformers' own logits processors."""

from __future__ import annotations

from typing import Any

import torch


class Greedy:
    """Chooses one answer's tokens. Stands where the head is; one per request.

    `prompt_ids` [T] may be None where `reads_prompt(model)` is false.
    """

    def __init__(self, model: Any, prompt_ids: torch.Tensor | None, num_prompt_tokens: int, limit: int) -> None:
        device = model.lm_head.weight.device
        config = _generation_config(model, num_prompt_tokens, limit, device)
        self._processors = _processors(model, config, num_prompt_tokens, device)
        eos = config._eos_token_tensor
        self._eos = set() if eos is None else set(eos.tolist())
        ids = prompt_ids if prompt_ids is not None else torch.zeros(num_prompt_tokens, dtype=torch.long)
        self._ids_BT = ids.to(device)[None]  # the prompt and the answer so far
        self._left = limit
        self.finished = limit <= 0

    @property
    def most_tokens(self) -> int:
        """How many tokens the prompt and the longest answer have together."""
        return self._ids_BT.shape[1] + self._left

    def choose(self, logits_V: torch.Tensor) -> int:
        """Returns the next token by its logits; afterwards `finished` says whether it was the last."""
        scores_BV = self._processors(self._ids_BT, logits_V[None].to(dtype=torch.float32, copy=True))
        return self.take(int(torch.argmax(scores_BV, dim=-1)))

    def take(self, token: int) -> int:
        """Takes a token that was chosen elsewhere, by a run that could not finish."""
        self._ids_BT = torch.cat([self._ids_BT, self._ids_BT.new_tensor([[token]])], dim=-1)
        self._left -= 1
        self.finished = self._left <= 0 or token in self._eos
        return token


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


def _generation_config(model: Any, num_prompt_tokens: int, limit: int, device: torch.device) -> Any:
    config, _ = model._prepare_generation_config(None, do_sample=False, max_new_tokens=limit)
    config.max_length = num_prompt_tokens + limit
    model._prepare_special_tokens(config, True, device=device)
    return config


def _processors(model: Any, config: Any, num_prompt_tokens: int, device: torch.device) -> Any:
    return model._get_logits_processor(config, input_ids_seq_length=num_prompt_tokens, device=device, model_kwargs={})
