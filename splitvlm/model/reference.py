"""The unsplit answers that law 1 compares with: transformers' own greedy `generate` on the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from splitvlm.files.pictures import to_rgb
from splitvlm.model.loading import load_whole
from splitvlm.model.processors import prompt_inputs
from splitvlm.model.prompt import Prompt


class Reference:
    """Holds a whole model with its processor, as transformers runs it."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor

    @torch.inference_mode()
    def tokens(self, prompt: Prompt, max_new_tokens: int) -> list[int]:
        """Returns the ids of the answer's tokens, the end token included where it was reached."""
        upright = Prompt(prompt.conversation, tuple(map(to_rgb, prompt.images)))
        inputs = {name: value.to(self._model.device) for name, value in prompt_inputs(self._processor, upright).items()}
        answer = self._model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        tokens: list[int] = answer[0, inputs["input_ids"].shape[1] :].tolist()
        return tokens


def reference_tokens(
    name: str, prompts: Sequence[Prompt], max_new_tokens: int, dtype: str = "float32"
) -> list[list[int]]:
    """Answers of the named model, which is loaded for this and dropped."""
    reference = Reference(*load_whole(name, dtype=dtype))
    return [reference.tokens(prompt, max_new_tokens) for prompt in prompts]
