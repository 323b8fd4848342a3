"""The families of models that can be divided, by the `model_type` of their config.

A further family is one file here, which says where its stages are (family.py), and one line in this one. Its tiny model, its
dummy processor and its shapes stand with the others' in tiny_models.py, dummy_processor.py and shapes.py.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from splitvlm.errors import UsageError

if TYPE_CHECKING:
    from splitvlm.model.families.family import Family

_MODULES = {
    "smolvlm": ("idefics3", "Idefics3"),
    "idefics3": ("idefics3", "Idefics3"),
    "llava_onevision": ("llava_onevision", "LlavaOnevision"),
    "llava": ("llava", "Llava"),
    "qwen2_vl": ("qwen2_vl", "Qwen2Vl"),
    "internvl": ("internvl", "InternVl"),
    "qwen2_5_vl": ("qwen2_5_vl", "Qwen25Vl"),
    "mistral3": ("mistral3", "Mistral3"),
    "gemma3": ("gemma3", "Gemma3"),
}
SUPPORTED = "SmolVLM, Idefics3, LLaVA-1.5, LLaVA-OneVision, Qwen2-VL, Qwen2.5-VL, InternVL 3, Mistral 3 and Gemma 3"


def family_of(model_type: str, name: str) -> Family:
    """Returns the family of a config's `model_type`; `name` is the model's, for the error. Raises UsageError."""
    if model_type not in _MODULES:
        raise UsageError(f"{name} is of the kind '{model_type}', which cannot be divided.", advice=f"Try {SUPPORTED}.")
    module, kind = _MODULES[model_type]
    family: Family = getattr(import_module(f"splitvlm.model.families.{module}"), kind)()
    return family
