"""Writing the trained model as a folder that transformers loads, without torchvision.

Weights are fp16 on disk while config.json says float32: a plain load computes in float32, which is faster on a CPU.
`processor_class` Idefics3Processor resolves to the Pillow image processor; SmolVLM's own needs torchvision for video.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, SmolVLMForConditionalGeneration

from splitvlm.files.text import read_json
from splitvlm.scenes.network import VISUAL_TOKENS
from splitvlm.scenes.scene import EDGE
from splitvlm.scenes.tokenizer import CHAT_TEMPLATE

MOST_NEW_TOKENS = 40
_IMAGES = {
    "image_processor_type": "Idefics3ImageProcessor",
    "processor_class": "Idefics3Processor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"longest_edge": EDGE},
    "max_image_size": {"longest_edge": EDGE},
    "resample": 1,  # Lanczos
    "do_image_splitting": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_pad": True,
}


def write(
    folder: Path, model: SmolVLMForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, report: dict[str, Any]
) -> None:
    """Writes config, fp16 weights, tokenizer, processor, generation settings, and `training.json` (how it was trained)."""
    folder.mkdir(parents=True, exist_ok=True)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model.generation_config = GenerationConfig(**special, max_new_tokens=MOST_NEW_TOKENS, do_sample=False)
    weights = {name: value.detach().to(torch.float16) for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
    _dump(folder / "preprocessor_config.json", _IMAGES)
    _dump(folder / "processor_config.json", {"processor_class": "Idefics3Processor", "image_seq_len": VISUAL_TOKENS})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    settings = read_json(folder / "tokenizer_config.json")
    _dump(folder / "tokenizer_config.json", {**settings, "processor_class": "Idefics3Processor"})
    _dump(folder / "training.json", report)


def _dump(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
