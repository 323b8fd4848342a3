"""`shape:<id>`: the exact shape of a known checkpoint with seeded random weights. Its answers mean nothing.

Each tensor is drawn from a seed of (id, tensor name), so that a part that holds half the model holds the same weights as
the whole. Sizes are those of the checkpoints' config.json on the Hugging Face Hub. One difference: the SmolVLM shapes show
a picture as one tile (the checkpoints cut it in up to 17), so that a request is one tile of work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch

from splitvlm.errors import UsageError
from splitvlm.model.random_weights import draw
from splitvlm.model.skeleton import build_skeleton, load_weights
from splitvlm.model.sources import Source

_SEED = 1  # of all shapes; a new one makes new weights, and other hashes


class ShapeSource(Source):
    """Draws a model of a known shape with seeded random weights, which is nowhere saved."""

    random_weights = True

    def __init__(self, shape: str) -> None:
        if shape not in SHAPES:
            raise UsageError(f"There is no shape '{shape}'.", advice=f"Known shapes: {', '.join(SHAPES)}.")
        self._shape = shape

    @cached_property
    def config(self) -> Any:
        """Returns the configuration of the known checkpoint of that shape."""
        return SHAPES[self._shape]()

    def processor(self) -> Any:
        """Returns a processor that makes prompts of the right size, of bytes instead of a vocabulary."""
        from splitvlm.model.dummy_processor import dummy_processor

        return dummy_processor(self.config)

    def generation_config(self, model: Any) -> Any:
        """Returns the skeleton's own generation config, with the repetition penalty of Qwen2.5-VL's checkpoints."""
        config = model.generation_config
        if self.config.model_type == "qwen2_5_vl":
            config.repetition_penalty = 1.05  # as in the checkpoints' generation_config.json
        return config

    def check(self, model: Any, needed: set[str]) -> None:
        """Does nothing: weights are drawn in the shapes of the skeleton."""

    def tensors(self, model: Any, wanted: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the names and seeded random values, float32, of the wanted parameters."""
        for name in sorted(wanted):
            yield name, draw(model, name, f"{_SEED}:{self._shape}")

    def whole(self, device: torch.device, dtype: torch.dtype) -> Any:
        """Returns the undivided model with all its weights."""
        model = build_skeleton(self.config, dtype)
        model.generation_config = self.generation_config(model)
        load_weights(model, self.tensors(model, {name for name, _ in model.named_parameters()}), device, dtype)
        return model

    def hashes(self) -> tuple[str, str]:
        """Returns the weights' hash, computed from shape and seed, and the processor's hash, both as hexadecimal."""
        facts = json.dumps(self.config.to_diff_dict(), sort_keys=True, default=str)
        weights = hashlib.sha256(f"{self._shape}:{_SEED}:{facts}".encode()).hexdigest()
        return weights, hashlib.sha256(f"stand-in 1:{facts}".encode()).hexdigest()


def _smolvlm(*, width: int, inner: int, layers: int, heads: int, kv_heads: int) -> Any:
    """Returns the configuration of SmolVLM-256M and -500M: a SigLIP-B tower at 512 px, SmolLM2."""
    from transformers import SmolVLMConfig

    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    text = _text("llama", width, inner, layers, heads, kv_heads, 49280, 100_000.0, 8192)
    return SmolVLMConfig(
        vision_config=vision | {"image_size": 512, "patch_size": 16},
        text_config=text | {"bos_token_id": 1, "pad_token_id": 2, "eos_token_id": 49279},
        scale_factor=4,
        image_token_id=49190,
        tie_word_embeddings=False,
    )


def _smolvlm_2b() -> Any:
    """Returns the configuration of SmolVLM-Instruct, which is of the Idefics3 kind: a SigLIP-so400m tower at 384 px,
    SmolLM2-1.7B.
    """
    from transformers import Idefics3Config

    vision = _so400m(layers=27, image_size=384)
    text = _text("llama", 2048, 8192, 24, 32, 32, 49155, 273_768.0, 16384)
    return Idefics3Config(
        vision_config=vision,
        text_config=text | {"bos_token_id": 1, "pad_token_id": 2, "eos_token_id": 49154},
        scale_factor=3,
        image_token_id=49153,
        tie_word_embeddings=False,
    )


def _qwen2_5_vl(*, width: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool) -> Any:
    from transformers import Qwen2_5_VLConfig

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text = _text("qwen2_5_vl_text", width, inner, layers, heads, kv_heads, vocab, 1e6, 128_000)
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": width}
    windows = {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
    return Qwen2_5_VLConfig(
        vision_config=vision | windows,
        text_config=text | {"rope_parameters": rope, "eos_token_id": 151645, "tie_word_embeddings": tied},
        image_token_id=151655,
        video_token_id=151656,
        vision_start_token_id=151652,
        vision_end_token_id=151653,
        tie_word_embeddings=tied,
    )


def _llava_onevision() -> Any:
    """Returns the configuration of LLaVA-OneVision on Qwen2-0.5B; 26 of the tower's 27 layers are kept, as in its config."""
    from transformers import LlavaOnevisionConfig

    text = _text("qwen2", 896, 4864, 24, 14, 2, 152_000, 1e6, 32_768)
    return LlavaOnevisionConfig(
        vision_config=_so400m(layers=26, image_size=384) | {"model_type": "siglip_vision_model"},
        text_config=text | {"eos_token_id": 151645, "tie_word_embeddings": True},
        image_token_id=151646,
        video_token_id=151647,
        tie_word_embeddings=True,
    )


def _gemma3() -> Any:
    """Returns the configuration of Gemma 3 4B: a SigLIP-so400m tower at 896 px, five sliding layers to each full one."""
    from transformers import Gemma3Config

    text = _text("gemma3_text", 2560, 10240, 34, 8, 4, 262_208, 1e6, 131_072)
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    ids = {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 106}
    return Gemma3Config(
        vision_config=_so400m(layers=27, image_size=896) | {"vision_use_head": False},
        text_config=text | ids | {"head_dim": 256, "sliding_window": 1024, "rope_parameters": rope},
        mm_tokens_per_image=256,
        image_token_id=262_144,
        boi_token_id=255_999,
        eoi_token_id=256_000,
    )


def _so400m(*, layers: int, image_size: int) -> dict[str, Any]:
    """Returns the configuration of SigLIP-so400m/14."""
    sizes = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16}
    return sizes | {"num_hidden_layers": layers, "image_size": image_size, "patch_size": 14}


def _llava_7b() -> Any:
    """Returns the configuration of llava-1.5-7b-hf: a CLIP-L tower at 336 px, of whose 24 layers 23 run, Vicuna-7B."""
    from transformers import LlavaConfig

    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    text = _text("llama", 4096, 11008, 32, 32, 32, 32064, 10_000.0, 4096)
    return LlavaConfig(
        vision_config=vision | {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14},
        text_config=text | {"bos_token_id": 1, "pad_token_id": 32001, "eos_token_id": 2, "rms_norm_eps": 1e-5},
        image_token_index=32000,
        image_seq_length=576,
        tie_word_embeddings=False,
    )


def _internvl3(*, width: int, inner: int, layers: int, heads: int, kv_heads: int) -> Any:
    """Returns the configuration of InternVL3-1B and -2B: InternViT-300M at 448 px, Qwen2.5-0.5B or -1.5B."""
    from transformers import InternVLConfig

    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    text = _text("qwen2", width, inner, layers, heads, kv_heads, 151_674, 1e6, 32_768)
    return InternVLConfig(
        vision_config=vision | {"image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True},
        text_config=text | {"eos_token_id": 151_645, "tie_word_embeddings": False},
        image_token_id=151_667,
        image_seq_length=256,
        tie_word_embeddings=False,
    )


def _text(
    kind: str, width: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int, theta: float, context: int
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "max_position_embeddings": context,
    }


SHAPES: dict[str, Callable[[], Any]] = {
    "smolvlm-256m": lambda: _smolvlm(width=576, inner=1536, layers=30, heads=9, kv_heads=3),
    "smolvlm-500m": lambda: _smolvlm(width=960, inner=2560, layers=32, heads=15, kv_heads=5),
    "smolvlm-2.2b": _smolvlm_2b,
    "qwen2.5-vl-3b": lambda: _qwen2_5_vl(
        width=2048, inner=11008, layers=36, heads=16, kv_heads=2, vocab=151_936, tied=True
    ),
    "qwen2.5-vl-7b": lambda: _qwen2_5_vl(
        width=3584, inner=18944, layers=28, heads=28, kv_heads=4, vocab=152_064, tied=False
    ),
    "llava-onevision-0.5b": _llava_onevision,
    "gemma-3-4b": _gemma3,
    "llava-1.5-7b": _llava_7b,
    "internvl3-1b": lambda: _internvl3(width=896, inner=4864, layers=24, heads=14, kv_heads=2),
    "internvl3-2b": lambda: _internvl3(width=1536, inner=8960, layers=28, heads=12, kv_heads=2),
}
