"""Tiny random models of each family, saved as folders as `save_pretrained` writes them: what exactness is verified on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from splitvlm.model.dummy_processor import dummy_processor
from splitvlm.model.random_weights import draw
from splitvlm.model.skeleton import build_skeleton, load_weights

VOCAB = 352  # 256 bytes and room for special tokens
_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}


def _text(kind: str, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    ids = {"bos_token_id": 1, "pad_token_id": 2, "eos_token_id": 4}
    rest = {"num_hidden_layers": 3, "vocab_size": VOCAB, "max_position_embeddings": 2048}
    return {"model_type": kind} | sizes | ids | rest | more


def scenes_like() -> tuple[Any, dict[str, Any]]:
    """Returns a SmolVLM as the embedded model is made: one tile, pixel shuffle 2."""
    from transformers import SmolVLMConfig

    vision = _VISION | {"image_size": 64, "patch_size": 8}
    text = _text("llama", tie_word_embeddings=True)
    config = SmolVLMConfig(
        vision_config=vision, text_config=text, scale_factor=2, image_token_id=300, tie_word_embeddings=True
    )
    return config, {}


def idefics3() -> tuple[Any, dict[str, Any]]:
    """Returns an Idefics3 whose pictures are cut in tiles."""
    from transformers import Idefics3Config

    vision = _VISION | {"image_size": 32, "patch_size": 8}
    config = Idefics3Config(
        vision_config=vision, text_config=_text("llama"), scale_factor=2, image_token_id=300, tie_word_embeddings=False
    )
    return config, {"do_image_splitting": True, "size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}


def llava_onevision() -> tuple[Any, dict[str, Any]]:
    """Returns a LLaVA-OneVision with crops of long pictures."""
    from transformers import LlavaOnevisionConfig

    vision = _VISION | {"image_size": 32, "patch_size": 8, "model_type": "siglip_vision_model"}
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=_text("qwen2", tie_word_embeddings=True),
        image_grid_pinpoints=[[32, 32], [32, 64], [64, 32], [64, 64], [32, 96], [96, 32]],
        vision_aspect_ratio="anyres_max_2",
        image_token_id=300,
        video_token_id=301,
        tie_word_embeddings=True,
    )
    return config, {}


def llava() -> tuple[Any, dict[str, Any]]:
    """Returns a LLaVA-1.5 that takes the states after the last but one of the tower's layers."""
    from transformers import LlavaConfig

    vision = _VISION | {"num_hidden_layers": 4, "image_size": 32, "patch_size": 8, "model_type": "clip_vision_model"}
    text = _text("llama", num_attention_heads=6, num_key_value_heads=2)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=300, image_seq_length=16)
    return config, {}


def qwen2_vl() -> tuple[Any, dict[str, Any]]:
    """Returns a Qwen2-VL with tied embeddings."""
    from transformers import Qwen2VLConfig

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
    config = Qwen2VLConfig(
        vision_config={"depth": 3, "embed_dim": 32, "num_heads": 2, "hidden_size": 48, "patch_size": 8, "mlp_ratio": 2},
        text_config=_text("qwen2_vl_text", rope_parameters=rope),
        image_token_id=300,
        video_token_id=301,
        vision_start_token_id=310,
        vision_end_token_id=311,
        tie_word_embeddings=True,
    )
    return config, {"size": {"shortest_edge": 32 * 32, "longest_edge": 80 * 80}}


def internvl() -> tuple[Any, dict[str, Any]]:
    """Returns an InternVL with crops of long pictures, and a class token."""
    from transformers import InternVLConfig

    config = InternVLConfig(
        vision_config=_VISION | {"image_size": [32, 32], "patch_size": [8, 8]},
        text_config=_text("qwen2", tie_word_embeddings=False),
        image_token_id=300,
        image_seq_length=4,
    )
    return config, {"max_patches": 4}


def mistral3() -> tuple[Any, dict[str, Any]]:
    """Returns a Mistral 3 with images of any size, and heads wider than their share of the model's width."""
    from transformers import Mistral3Config

    vision = _VISION | {"image_size": 80, "patch_size": 8, "head_dim": 16, "model_type": "pixtral"}
    text = _text("mistral", head_dim=16, sliding_window=None, tie_word_embeddings=False)
    config = Mistral3Config(
        vision_config=vision, text_config=text, image_token_index=300, spatial_merge_size=2, tie_word_embeddings=False
    )
    return config, {}


def qwen2_5_vl() -> tuple[Any, dict[str, Any]]:
    """Returns a Qwen2.5-VL with windows of 2 x 2 merged patches, and full attention in the second layer."""
    from transformers import Qwen2_5_VLConfig

    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 48}
    windows = {"patch_size": 8, "window_size": 32, "fullatt_block_indexes": [1], "spatial_merge_size": 2}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
    config = Qwen2_5_VLConfig(
        vision_config=vision | windows,
        text_config=_text("qwen2_5_vl_text", rope_parameters=rope),
        image_token_id=300,
        video_token_id=301,
        vision_start_token_id=310,
        vision_end_token_id=311,
        tie_word_embeddings=False,
    )
    return config, {"size": {"shortest_edge": 32 * 32, "longest_edge": 80 * 80}}


def gemma3() -> tuple[Any, dict[str, Any]]:
    """Returns a Gemma 3 with sliding windows shorter than the prompt in two of three layers, and crops of long pictures."""
    from transformers import Gemma3Config

    types = ["sliding_attention", "full_attention", "sliding_attention"]
    text = _text("gemma3_text", head_dim=12, layer_types=types, sliding_window=24, query_pre_attn_scalar=12)
    config = Gemma3Config(
        vision_config=_VISION | {"image_size": 32, "patch_size": 8, "vision_use_head": False},
        text_config=text,
        mm_tokens_per_image=4,
        image_token_id=300,
        boi_token_id=310,
        eoi_token_id=311,
    )
    crops = {"pan_and_scan_min_crop_size": 16, "pan_and_scan_max_num_crops": 4}
    return config, {"do_pan_and_scan": True, "pan_and_scan_min_ratio_to_activate": 1.8, **crops}


FAMILIES: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "scenes-like": scenes_like,
    "idefics3": idefics3,
    "llava-onevision": llava_onevision,
    "llava": llava,
    "qwen2-vl": qwen2_vl,
    "internvl": internvl,
    "qwen2.5-vl": qwen2_5_vl,
    "mistral3": mistral3,
    "gemma3": gemma3,
}


def save(kind: str, folder: Path, *, repetition_penalty: float | None = None, vision_layers: int | None = None) -> Path:
    """Saves a tiny model of `kind` (a key of FAMILIES) with its processor, with its own number of layers or `vision_layers`.

    Returns the folder.
    """
    config, image_settings = FAMILIES[kind]()
    if vision_layers is not None:
        config.vision_config.num_hidden_layers = vision_layers
    model = build_skeleton(config, torch.float32)
    names = [name for name, _ in model.named_parameters()]
    load_weights(model, ((name, draw(model, name, kind)) for name in names), torch.device("cpu"), torch.float32)
    model.generation_config.eos_token_id = 4
    model.generation_config.repetition_penalty = repetition_penalty
    model.save_pretrained(folder)
    dummy_processor(config, image_settings).save_pretrained(folder)
    return folder
