"""The language model of a vision-language model as a folder of its own, which programs for causal language models read.

The folder is what transformers' `save_pretrained` writes for the text configuration (LlamaForCausalLM, Qwen2ForCausalLM, ...),
so that such a program continues a prompt that it is given as embeddings. That suffices where a prompt is its embeddings at
positions 0, 1, 2, ... under a causal mask; other families are refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splitvlm.errors import UsageError
from splitvlm.model.part import ModelPart
from splitvlm.model.sampling import reads_rules


def check_causal(part: ModelPart) -> None:
    """Raises UsageError for a model whose answers are not told by its prompt's embeddings alone."""
    family, name = part.family, part.spec.name
    if family.language_sides or family.needs_types:
        needs = "positions on several axes" if family.language_sides else "a mask in which image tokens see one another"
        raise UsageError(
            f"{name} is of the family {family.name}, whose prompts need {needs} besides their embeddings.",
            advice="Use the engine torch for it.",
        )
    if rules := reads_rules(part.model):
        raise UsageError(
            f"{name} chooses tokens by rules of its generation config ({', '.join(rules)}).",
            advice="Use the engine torch for it.",
        )


def write_causal_folder(part: ModelPart, folder: Path) -> None:
    """Writes config and weights of the part's language model to `folder`, in the dtype in which they are loaded.

    Raises UsageError where transformers has no causal model of exactly these parameters.
    """
    causal_model(part).save_pretrained(folder)


def causal_model(part: ModelPart) -> Any:
    """Returns transformers' causal model of the part's language model, which shares its weights. Raises UsageError."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    check_causal(part)
    stack = part.family.stack(part.model)
    tensors = {f"model.{name}": tensor for name, tensor in stack.state_dict().items()}
    tensors["lm_head.weight"] = part.model.lm_head.weight
    with init_empty_weights():
        causal: Any = AutoModelForCausalLM.from_config(part.model.config.get_text_config(), dtype=part.model.dtype)
    if set(causal.state_dict()) != set(tensors):
        raise UsageError(
            f"The language model of {part.spec.name} is not that of {type(causal).__name__}.",
            advice="Use the engine torch for it.",
        )
    causal.load_state_dict(tensors, assign=True)
    causal.tie_weights()
    return causal
