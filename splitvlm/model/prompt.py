"""A prompt is what a model is asked with: a conversation and its images, opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from splitvlm.domain import Conversation, ImagePart, Message
from splitvlm.errors import UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Holds a conversation and its images in the order of its image parts. Raises UsageError where their numbers differ."""

    conversation: Conversation
    images: tuple[Image.Image, ...] = ()

    def __post_init__(self) -> None:
        if len(self.images) != self.conversation.num_images:
            raise UsageError(
                f"The conversation shows {self.conversation.num_images} images, but {len(self.images)} came with it.",
                advice="Send one image for each image part, in their order.",
            )

    @classmethod
    def about(cls, image: Image.Image, question: str) -> Prompt:
        """Returns the prompt of one question about one image. Raises UsageError for an empty question."""
        return cls(Conversation.about(question), (image,))


def template_messages(prompt: Prompt) -> list[dict[str, Any]]:
    """Returns messages in the form that chat templates of transformers take."""
    images = iter(prompt.images)

    def content(message: Message) -> list[dict[str, Any]]:
        return [
            {"type": "image", "image": next(images)}
            if isinstance(part, ImagePart)
            else {"type": "text", "text": part.text}
            for part in message.parts
        ]

    return [{"role": str(message.speaker), "content": content(message)} for message in prompt.conversation.messages]
