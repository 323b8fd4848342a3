"""A conversation to token ids, as the family's own processor makes them: chat template, places of images, tokenizer.

Source: transformers utils/chat_template_utils.py for what a template may use, models/idefics3/processing_idefics3.py for what
stands for an image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from splitvlm.domain import Conversation, ImagePart, Message, TextPart
from splitvlm.errors import UsageError, first_sentence
from splitvlm.exported.device_file import TOKENIZER_FILE, DeviceFile, PromptRules
from splitvlm.exported.pictures import TileGrid


class ExportedTokenizer:
    """Holds a tokenizer of the tokenizers library, under the names by which transformers' own give it out."""

    def __init__(self, path: Path) -> None:
        """Reads tokenizer.json. Raises UsageError."""
        try:
            self.backend_tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no kind of its own
            raise UsageError(
                f"{path} is no tokenizer: {first_sentence(error)}", advice="Copy the variant's folder whole."
            ) from error
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Returns the text of an answer's token ids."""
        return str(self.backend_tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens))


class Prompts:
    """Makes prompts of conversations."""

    def __init__(self, folder: Path, content: DeviceFile) -> None:
        """Takes a variant's folder and what its device.json says. Raises UsageError."""
        self.tokenizer = ExportedTokenizer(folder / TOKENIZER_FILE)
        self._rules = content.prompt
        self._template = _compiled(content.prompt.template)

    def ids(self, conversation: Conversation, grids: Sequence[TileGrid]) -> list[int]:
        """Returns a prompt's token ids; its images have these tiles. Raises UsageError for what no prompt can be made of."""
        rules = self._rules
        self._check_text(conversation)
        pieces = self._rendered(conversation).split(rules.image_token)
        if len(pieces) != len(grids) + 1:
            raise UsageError(
                f"The model's chat template shows {len(pieces) - 1} of {len(grids)} images.",
                advice="Send fewer images in one conversation.",
            )
        images = [_image_text(grid, rules) for grid in grids]
        text = "".join(piece + image for piece, image in zip(pieces, [*images, ""], strict=True))
        begins = bool(rules.bos_token) and text.startswith(rules.bos_token)
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=not begins).ids
        return ids

    def _rendered(self, conversation: Conversation) -> str:
        """Returns the conversation as the template writes it. Raises UsageError where it refuses or drops anything."""
        try:
            text = self._template.render(
                messages=[_for_template(message) for message in conversation.messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._rules.variables,
            )
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

    def _check_text(self, conversation: Conversation) -> None:
        """Raises UsageError for text that the tokenizer would take for more than text, such as `<image>`."""
        for message in conversation.messages:
            for token in self._rules.special_tokens:
                if token in message.text:
                    raise UsageError(
                        f"A message of the {message.speaker} holds '{token}', which is a special token of this model.",
                        advice="Write it otherwise.",
                    )


def _compiled(template: str) -> Template:
    """Returns a chat template, which may use what transformers gives to templates. Raises UsageError."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _json
    environment.globals["raise_exception"] = _refused
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise UsageError(
            f"The model's chat template is not read here: {first_sentence(error)}", advice="Use the variant with torch."
        ) from error


def _refused(message: str) -> NoReturn:
    raise TemplateError(message)


def _json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Returns JSON without the escapes of HTML that Jinja's own filter makes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _for_template(message: Message) -> dict[str, Any]:
    content = [
        {"type": "image", "image": "<Image>"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
        for part in message.parts
    ]
    return {"role": str(message.speaker), "content": content}


def _image_text(grid: TileGrid, rules: PromptRules) -> str:
    """Returns what stands in the prompt for an image: a place for each visual token of each tile, and where tiles begin."""
    around, places = rules.around_image, rules.image_token * rules.tokens_a_tile
    whole = f"{around}{rules.whole_image}{places}{around}"
    if not grid.rows:
        return whole
    rows = (
        "".join(f"{around}<row_{row}_col_{column}>{places}" for column in range(1, grid.columns + 1)) + "\n"
        for row in range(1, grid.rows + 1)
    )
    return "".join(rows) + "\n" + whole
