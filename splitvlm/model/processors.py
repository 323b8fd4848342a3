"""Processors for still pictures, with PIL, and prompts made by them.

transformers' processors of SmolVLM, LLaVA-OneVision and Qwen2.5-VL hold a video processor too, which needs torchvision. We
show pictures only: a subclass without that argument is made, so that the rest is their own code; for SmolVLM's, Idefics3's
is taken. Image processors are the PIL ones on every node, because torchvision's resize gives other pixels.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from splitvlm.domain import Conversation, TextPart
from splitvlm.errors import UsageError, first_sentence
from splitvlm.model.folders import SETTINGS_FILES, read_object
from splitvlm.model.prompt import Prompt, template_messages

# SmolVLM's processor asks its video processor even about stills; Idefics3's makes the same prompt without one.
_STILLS = {"SmolVLMProcessor": "Idefics3Processor"}
_MEASURED = {"accuracy.json", "leak.json", "training.json"}
_HERE = {"trust_remote_code": False, "local_files_only": True}


def load_processor(folder: Path, config: Any) -> Any:
    """Returns the processor saved in `folder` for the model of `config`, tried on one prompt. Raises UsageError."""
    from transformers import AutoImageProcessor, AutoTokenizer

    try:
        image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **_HERE)
        tokenizer = AutoTokenizer.from_pretrained(folder, **_HERE)
        kind, settings = _processor_class(folder, config.model_type)
        processor = stills(kind, image_processor, tokenizer, **settings)
    except (
        Exception
    ) as error:  # tokenizers raises no kind of its own, and a file's content can make transformers raise any
        raise UsageError(
            f"The processor in {folder} cannot be loaded: {first_sentence(error)}",
            advice="The folder must hold what the model's processor saved, of a kind that these versions of transformers "
            "and tokenizers know.",
        ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UsageError(
            f"The tokenizer in {folder} ({type(tokenizer).__name__}) is not one of the tokenizers library.",
            advice="Fetch tokenizer.json from where the model is published.",
        )
    _try_prompt(processor, config, folder)
    return processor


def _try_prompt(processor: Any, config: Any, folder: Path) -> None:
    """Makes one prompt, so that what is wrong with a template is said at the start and not at each question."""
    if not getattr(processor, "chat_template", None):
        raise UsageError(
            f"The processor in {folder} has no chat template, by which questions become prompts.",
            advice="Fetch chat_template.jinja (or chat_template.json) from where the model is published.",
        )
    question = "What is this?"
    try:
        inputs = _applied(processor, template_messages(Prompt.about(Image.new("RGB", (64, 64), "grey"), question)))
        ids = inputs["input_ids"][0].tolist()
        text = processor.tokenizer.decode(ids)
    except Exception as error:  # a template is a program: it raises what it likes
        raise UsageError(
            f"The chat template in {folder} makes no prompt of a picture and a question: {first_sentence(error)}",
            advice="Fetch the template of the vision-language model, not that of its language model alone.",
        ) from error
    lacks = "the picture" if config.image_token_id not in ids else "the question" if question not in text else ""
    if lacks:
        raise UsageError(
            f"The chat template in {folder} leaves out {lacks}.",
            advice="Fetch the template of the vision-language model, not that of its language model alone.",
        )
    vocabulary = int(config.get_text_config().vocab_size)
    of_prompt = max(token for token in ids if token != config.image_token_id)  # which Gemma 3 keeps above its table
    if max(of_prompt + 1, processor.tokenizer.vocab_size) > vocabulary:
        raise UsageError(
            f"The tokenizer in {folder} gives ids above the model's vocabulary of {vocabulary}.",
            advice="Fetch the tokenizer and the model from one place: they are not of the same model.",
        )


def stills(kind: type[Any], image_processor: Any, tokenizer: Any, **settings: Any) -> Any:
    """Returns a processor of class `kind` that takes no videos."""
    from transformers import ProcessorMixin

    if "video_processor" not in kind.get_attributes():
        return kind(image_processor=image_processor, tokenizer=tokenizer, **settings)

    def init(self: Any, image_processor: Any, tokenizer: Any, **settings: Any) -> None:
        kind.__init__(self, image_processor, tokenizer, None, **settings)  # ProcessorMixin drops the third

    signature = inspect.signature(kind.__init__)
    parameters = [p for p in signature.parameters.values() if p.name != "video_processor"]
    init.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # by which it is saved
    made: type[Any] = type(kind.__name__, (kind,), {"__init__": init})
    processor = made(image_processor, tokenizer, **settings)
    assert isinstance(processor, ProcessorMixin)
    return processor


def pixtral_processor() -> type[Any]:
    """Returns transformers' PixtralProcessor, which counts an image's tokens by a function of the image processor.

    It imports that function from the module that needs torchvision. The PIL image processor's module has the same one, and
    stands in for the other while the processor is imported.
    """
    package = "transformers.models.pixtral"
    needs_torchvision = f"{package}.image_processing_pixtral"
    is_stand_in = needs_torchvision not in sys.modules
    if is_stand_in:
        sys.modules[needs_torchvision] = importlib.import_module(f"{package}.image_processing_pil_pixtral")
    try:
        kind: type[Any] = importlib.import_module(f"{package}.processing_pixtral").PixtralProcessor
    finally:
        if is_stand_in:
            del sys.modules[needs_torchvision]
    return kind


def prompt_inputs(processor: Any, prompt: Prompt) -> dict[str, Any]:
    """Passes a prompt through the model's own chat template. Returns tensors with a batch axis of 1.

    Raises UsageError for text that holds one of the model's special tokens, and for what the template cannot take.
    """
    check_text(processor.tokenizer, prompt.conversation)
    messages = template_messages(prompt)
    check_template(processor, messages, prompt.conversation)
    return _applied(processor, messages)


def _applied(processor: Any, messages: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(
        processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    )


def num_prompt_tokens(processor: Any, prompt: Prompt) -> int:
    """Returns how many tokens a prompt becomes, by its text and the sizes of its images, without touching a pixel.

    Raises UsageError as `prompt_inputs` does. Where the processor does not say what an image becomes, it counts as one token.
    """
    check_text(processor.tokenizer, prompt.conversation)
    text = check_template(processor, template_messages(prompt), prompt.conversation)
    num_tokens = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    count = getattr(processor, "_get_num_multimodal_tokens", None)
    if count is None or not prompt.images:
        return num_tokens
    per_image = count(image_sizes=[(image.height, image.width) for image in prompt.images])["num_image_tokens"]
    return num_tokens + int(sum(per_image)) - len(prompt.images)


def check_template(processor: Any, messages: list[dict[str, Any]], conversation: Conversation) -> str:
    """Returns the conversation as the template writes it. Raises UsageError where the template refuses or drops anything."""
    from jinja2.exceptions import TemplateError

    try:
        text = str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except TemplateError as error:
        raise UsageError(
            f"The model's chat template does not take this conversation: {first_sentence(error)}",
            advice="Leave out what it names, such as a system message; or let user and assistant take turns.",
        ) from error
    for message in conversation.messages:
        if any(part.text.strip() not in text for part in message.parts if isinstance(part, TextPart)):
            raise UsageError(
                f"The model's chat template leaves out a message of the {message.speaker}.",
                advice="Put its text into a message of the user.",
            )
    return text


def check_text(tokenizer: Any, conversation: Conversation) -> None:
    """Raises UsageError for text that the tokenizer would take for more than text, such as `<image>`."""
    special = _special_tokens(tokenizer)
    for message in conversation.messages:
        text = message.text  # of all parts: a token may stand in two of them
        for token in special:
            if token in text:
                raise UsageError(
                    f"A message of the {message.speaker} holds '{token}', which is a special token of this model.",
                    advice="Write it otherwise.",
                )


def _special_tokens(tokenizer: Any) -> set[str]:
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {token for token in (*tokenizer.all_special_tokens, *added) if token}


def processor_files(folder: Path) -> list[Path]:
    """Returns the files that decide what a prompt becomes: all small ones but the model's own config and index."""
    others = {"config.json", "generation_config.json", "model.safetensors.index.json", *_MEASURED}
    return sorted(p for pattern in SETTINGS_FILES for p in folder.glob(pattern) if p.name not in others)


def _processor_class(folder: Path, model_type: str) -> tuple[type[Any], dict[str, Any]]:
    import transformers
    from transformers import ProcessorMixin
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    settings, _ = ProcessorMixin.get_processor_dict(folder, local_files_only=True)
    named = settings.get("processor_class") or _named_class(folder) or PROCESSOR_MAPPING_NAMES[model_type]
    name = _STILLS.get(named, named)
    kind = pixtral_processor() if name == "PixtralProcessor" else getattr(transformers, name)
    if not (isinstance(kind, type) and issubclass(kind, ProcessorMixin)):
        raise TypeError(f"{named} is no processor")
    dropped = {"processor_class", "auto_map", "image_processor", "tokenizer", "video_processor"}
    return kind, {key: value for key, value in settings.items() if key not in dropped}


def _named_class(folder: Path) -> str | None:
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file() and (class_name := read_object(path).get("processor_class")):
            return str(class_name)
    return None
