"""Dummy processors for models without files: real processor classes over a byte-level tokenizer.

The tokenizer has the model's vocabulary size and its special tokens at their ids; a text is its UTF-8 bytes, and every
other id decodes to a made-up word, so that any token that random weights choose can be shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splitvlm.model.processors import pixtral_processor, stills

_SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for line in message['content'] %}{% if line['type'] == 'image' %}{{ '<image>' }}{% else %}{{ line['text'] }}"
    "{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def _turns(start: str, end: str, image: str, answerer: str, first: str = "") -> str:
    """Returns a chat template of turns between `start` and `end` tokens."""
    return (
        first + "{% for message in messages %}" + start + "{{ message['role'] }}\n"
        "{% for line in message['content'] %}{% if line['type'] == 'image' %}" + image + "{% else %}{{ line['text'] }}"
        "{% endif %}{% endfor %}" + end + "\n{% endfor %}"
        "{% if add_generation_prompt %}" + start + answerer + "\n{% endif %}"
    )


def dummy_processor(config: Any, image_settings: Mapping[str, Any] | None = None) -> Any:
    """Returns the processor of `config`'s family, fitted to its sizes. `image_settings` override the image processor's."""
    make = {
        "smolvlm": _idefics3,
        "idefics3": _idefics3,
        "llava_onevision": _llava_onevision,
        "qwen2_5_vl": _qwen2_5_vl,
        "qwen2_vl": _qwen2_vl,
        "llava": _llava,
        "internvl": _internvl,
        "mistral3": _mistral3,
        "gemma3": _gemma3,
    }
    return make[config.model_type](config, dict(image_settings or {}))


def byte_tokenizer(vocab_size: int, special: Mapping[str, int], **names: Any) -> Any:
    """Returns a tokenizer of bytes with `special` tokens at their ids. `names` such as eos_token go to transformers."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    taken = set(special.values())
    free = (i for i in range(vocab_size) if i not in taken)
    vocab = {letter: next(free) for letter in sorted(pre_tokenizers.ByteLevel.alphabet())}
    vocab |= {f"Ġw{i}": i for i in free} | dict(special)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)


def _end(config: Any) -> int:
    eos = config.get_text_config().eos_token_id
    return int(eos[0] if isinstance(eos, list) else eos)


def _idefics3(config: Any, settings: dict[str, Any]) -> Any:
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    text, vision = config.text_config, config.vision_config
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    edge = {"longest_edge": vision.image_size}
    images = Idefics3ImageProcessorPil(
        **{"size": edge, "max_image_size": edge, "do_image_splitting": False, **half, **settings}
    )
    special = {
        "<|im_start|>": text.bos_token_id,
        "<|im_end|>": text.pad_token_id,
        "<fake_token_around_image>": config.image_token_id - 1,
        "<image>": config.image_token_id,
        "<end_of_utterance>": _end(config),
    }
    tokenizer = byte_tokenizer(
        text.vocab_size, special, bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|im_end|>"
    )
    num_tokens = (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2
    return stills(Idefics3Processor, images, tokenizer, image_seq_len=num_tokens, chat_template=_SMOL_TEMPLATE)


def _llava_onevision(config: Any, settings: dict[str, Any]) -> Any:
    from transformers import LlavaOnevisionProcessor
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    vision = config.vision_config
    size = {"height": vision.image_size, "width": vision.image_size}
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    pinpoints = config.image_grid_pinpoints
    images = LlavaOnevisionImageProcessorPil(**{"size": size, "image_grid_pinpoints": pinpoints, **half, **settings})
    special = {"<|im_start|>": config.image_token_id - 2, "<image>": config.image_token_id, "<|im_end|>": _end(config)}
    tokenizer = byte_tokenizer(config.text_config.vocab_size, special, eos_token="<|im_end|>", pad_token="<|im_start|>")
    return stills(
        LlavaOnevisionProcessor,
        images,
        tokenizer,
        num_image_tokens=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        vision_aspect_ratio=config.vision_aspect_ratio,
        chat_template=_turns("<|im_start|>", "<|im_end|>", "<image>\n", "assistant"),
    )


def _llava(config: Any, settings: dict[str, Any]) -> Any:
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    edge, vision = config.vision_config.image_size, config.vision_config
    crop = {"height": edge, "width": edge}
    images = CLIPImageProcessorPil(**{"size": {"shortest_edge": edge}, "crop_size": crop, **settings})
    special = {"<|im_start|>": config.image_token_id - 2, "<image>": config.image_token_id, "<|im_end|>": _end(config)}
    tokenizer = byte_tokenizer(config.text_config.vocab_size, special, eos_token="<|im_end|>", pad_token="<|im_start|>")
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,  # the class token, which the strategy takes away
        chat_template=_turns("<|im_start|>", "<|im_end|>", "<image>\n", "assistant"),
    )


def _internvl(config: Any, settings: dict[str, Any]) -> Any:
    from transformers import InternVLProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    height, width = config.vision_config.image_size
    size = {"height": height, "width": width}
    images = GotOcr2ImageProcessorPil(**{"size": size, "crop_to_patches": True, "max_patches": 12, **settings})
    special = {
        "<|im_start|>": config.image_token_id - 8,
        "<|im_end|>": _end(config),
        "<img>": config.image_token_id - 2,
        "</img>": config.image_token_id - 1,
        "<IMG_CONTEXT>": config.image_token_id,
        "<video>": config.image_token_id + 1,
    }
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = byte_tokenizer(
        config.text_config.vocab_size,
        special,
        eos_token="<|im_end|>",
        pad_token="<|im_start|>",
        extra_special_tokens=names,
    )
    return stills(
        InternVLProcessor,
        images,
        tokenizer,
        image_seq_length=config.image_seq_length,
        chat_template=_turns("<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>\n", "assistant"),
    )


def _mistral3(config: Any, settings: dict[str, Any]) -> Any:
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    vision = config.vision_config
    images = PixtralImageProcessorPil(**{"size": {"longest_edge": vision.image_size}, **settings})
    special = {
        "<s>": config.text_config.bos_token_id,
        "</s>": _end(config),
        "[IMG]": config.image_token_id,
        "[IMG_BREAK]": config.image_token_id + 2,
        "[IMG_END]": config.image_token_id + 3,
    }
    tokenizer = byte_tokenizer(
        config.text_config.vocab_size, special, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    return pixtral_processor()(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        spatial_merge_size=config.spatial_merge_size,
        chat_template=_turns("", "</s>", "[IMG]", "assistant", first="<s>"),
    )


def _qwen2_vl(config: Any, settings: dict[str, Any]) -> Any:
    from transformers import Qwen2VLProcessor

    return _qwen(config, settings, Qwen2VLProcessor)


def _qwen2_5_vl(config: Any, settings: dict[str, Any]) -> Any:
    from transformers import Qwen2_5_VLProcessor

    return _qwen(config, settings, Qwen2_5_VLProcessor)


def _qwen(config: Any, settings: dict[str, Any], kind: type[Any]) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    vision = config.vision_config
    images = Qwen2VLImageProcessorPil(
        **{"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size, **settings}
    )
    special = {
        "<|im_start|>": config.vision_start_token_id - 8,
        "<|im_end|>": _end(config),
        "<|vision_start|>": config.vision_start_token_id,
        "<|vision_end|>": config.vision_end_token_id,
        "<|image_pad|>": config.image_token_id,
        "<|video_pad|>": config.video_token_id,
    }
    tokenizer = byte_tokenizer(config.text_config.vocab_size, special, eos_token="<|im_end|>", pad_token="<|im_start|>")
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    template = _turns("<|im_start|>", "<|im_end|>", image, "assistant")
    return stills(kind, images, tokenizer, chat_template=template)


def _gemma3(config: Any, settings: dict[str, Any]) -> Any:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    vision, text = config.vision_config, config.text_config
    size = {"height": vision.image_size, "width": vision.image_size}
    images = Gemma3ImageProcessorPil(
        **{"size": size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_pan_and_scan": False, **settings}
    )
    special = {
        "<pad>": text.pad_token_id,
        "<bos>": text.bos_token_id,
        "<end_of_turn>": _end(config),
        "<start_of_turn>": _end(config) - 1,
        "<start_of_image>": config.boi_token_id,
        "<end_of_image>": config.eoi_token_id,
        "<image_soft_token>": config.image_token_id,
    }
    tokenizer = byte_tokenizer(
        text.vocab_size,
        special,
        bos_token="<bos>",
        eos_token="<end_of_turn>",
        pad_token="<pad>",
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    )
    template = _turns("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "model", first="<bos>")
    return stills(
        Gemma3Processor, images, tokenizer, image_seq_length=config.mm_tokens_per_image, chat_template=template
    )
