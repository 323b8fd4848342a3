"""Processors for still pictures, with PIL, and prompts made by them.

transformers' processors of SmolVLM, LLaVA-OneVision and Qwen2.5-VL hold a video processor too, which needs torchvision. We
show pictures only: a subclass without that argument is made, so that the rest is their own code; for SmolVLM's, Idefics3's
is taken. Image processors are the PIL ones on every node, because torchvision's resize gives other pixels.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from splitvlm.errors import UsageError

# SmolVLM's processor asks its video processor even about stills; Idefics3's makes the same prompt without one.
_STILLS = {"SmolVLMProcessor": "Idefics3Processor"}
_MEASURED = {"accuracy.json", "leak.json", "training.json"}
_FILES = ("*.json", "*.jinja", "*.txt", "*.model")


def load_processor(folder: Path) -> Any:
    """The processor saved in `folder`. Raises UsageError."""
    from transformers import AutoImageProcessor, AutoTokenizer

    try:
        image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        kind, settings = _processor_class(folder)
        return stills(kind, image_processor, tokenizer, **settings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise UsageError(
            f"The processor in {folder} cannot be loaded: {_first_line(error)}",
            advice="The folder must hold what the model's processor saved: preprocessor and tokenizer files.",
        ) from error


def stills(kind: type[Any], image_processor: Any, tokenizer: Any, **settings: Any) -> Any:
    """A processor of class `kind` that takes no videos."""
    from transformers import ProcessorMixin

    if "video_processor" not in kind.get_attributes():
        return kind(image_processor=image_processor, tokenizer=tokenizer, **settings)

    def init(self: Any, image_processor: Any, tokenizer: Any, **settings: Any) -> None:
        kind.__init__(self, image_processor, tokenizer, None, **settings)  # ProcessorMixin drops the third

    signature = inspect.signature(kind.__init__)
    kept = [p for p in signature.parameters.values() if p.name != "video_processor"]
    init.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]  # by which it is saved
    made: type[Any] = type(kind.__name__, (kind,), {"__init__": init})
    processor = made(image_processor, tokenizer, **settings)
    assert isinstance(processor, ProcessorMixin)
    return processor


def prompt_inputs(processor: Any, image: Any, question: str) -> dict[str, Any]:
    """One picture and one question through the model's own chat template: tensors with a batch axis of 1.

    Raises UsageError for a question that holds one of the model's special tokens.
    """
    check_question(processor.tokenizer, question)
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return dict(inputs)


def check_question(tokenizer: Any, question: str) -> None:
    """Raises UsageError for a text that the tokenizer would take for more than text, such as `<image>`."""
    for token in tokenizer.all_special_tokens:
        if token and token in question:
            raise UsageError(
                f"The question holds '{token}', which is a special token of this model.", advice="Write it otherwise."
            )


def processor_files(folder: Path) -> list[Path]:
    """Files that decide what a prompt becomes: all small ones but the model's own config and index."""
    others = {"config.json", "generation_config.json", "model.safetensors.index.json", *_MEASURED}
    return sorted(p for pattern in _FILES for p in folder.glob(pattern) if p.name not in others)


def _processor_class(folder: Path) -> tuple[type[Any], dict[str, Any]]:
    import transformers
    from transformers import AutoConfig, ProcessorMixin
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    settings, _ = ProcessorMixin.get_processor_dict(folder)
    named = settings.get("processor_class") or _named_class(folder)
    named = named or PROCESSOR_MAPPING_NAMES[AutoConfig.from_pretrained(folder).model_type]
    kind = getattr(transformers, _STILLS.get(named, named))
    dropped = {"processor_class", "auto_map", "image_processor", "tokenizer", "video_processor"}
    return kind, {key: value for key, value in settings.items() if key not in dropped}


def _named_class(folder: Path) -> str | None:
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file() and (found := json.loads(path.read_text("utf-8")).get("processor_class")):
            return str(found)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".") + "."
