"""A conversation is what an application asks with: messages of text and images, in their order.

Images stand beside a conversation, in the order of its image parts, because what an image is differs from place to place: a
file, an opened picture, coded bytes, a boundary's features.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from splitvlm.errors import UsageError

MAX_MESSAGES = 1024
MAX_IMAGES = 64
MAX_TEXT_BYTES = 256 * 1024  # of all messages together, in UTF-8: more than any model here reads


class Speaker(StrEnum):
    """Says whose a message is: the `role` of chat templates and of the OpenAI API."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class TextPart:
    """Holds text of a message. It never becomes a special token, whatever it says."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """Stands for the conversation's next image."""


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class Message:
    """Holds what one speaker says at one time."""

    speaker: Speaker
    parts: tuple[Part, ...]

    @property
    def num_images(self) -> int:
        """Returns the number of the message's images."""
        return sum(isinstance(part, ImagePart) for part in self.parts)

    @property
    def text(self) -> str:
        """Returns the text of all parts together."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class Conversation:
    """Holds messages, of which the last is the user's: the answer follows it. Raises UsageError when made."""

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def about(cls, text: str, num_images: int = 1) -> Conversation:
        """Returns the smallest conversation: one question of the user about images, which come before it."""
        images = (ImagePart(),) * num_images
        return cls((Message(Speaker.USER, (*images, TextPart(text))),))

    def then(self, answer: str, text: str, num_images: int = 0) -> Conversation:
        """Returns the conversation with an answer and the user's next question, about further images if any."""
        answered = Message(Speaker.ASSISTANT, (TextPart(answer),))
        return Conversation((*self.messages, answered, *Conversation.about(text, num_images).messages))

    @property
    def num_images(self) -> int:
        """Returns the number of images of all messages."""
        return sum(message.num_images for message in self.messages)


def _check(conversation: Conversation) -> None:
    messages = conversation.messages
    if not any(message.speaker is Speaker.USER for message in messages):
        raise UsageError("A conversation needs a message of the user.", advice="Ask something.")
    if messages[-1].speaker is not Speaker.USER:
        raise UsageError(
            f"The last message is the {messages[-1].speaker}'s, but an answer follows the user's.",
            advice="End with a message of the user.",
        )
    if len(messages) > MAX_MESSAGES:
        raise UsageError(f"A conversation of {len(messages)} messages is too long: {MAX_MESSAGES} at most are taken.")
    if conversation.num_images > MAX_IMAGES:
        raise UsageError(
            f"A conversation with {conversation.num_images} images is too long: {MAX_IMAGES} at most are taken.",
            advice="Leave out the oldest.",
        )
    if any(message.num_images for message in messages if message.speaker is not Speaker.USER):
        raise UsageError("Only the user's messages hold images.", advice="Put the image into a message of the user.")
    for message in messages:
        if not message.num_images and not message.text.strip() and message.speaker is not Speaker.ASSISTANT:
            raise UsageError(f"A message of the {message.speaker} is empty.", advice="Leave it out, or say something.")
    if not any(message.text.strip() for message in messages if message.speaker is Speaker.USER):
        raise UsageError("The question is empty.", advice="Ask something, beside showing images.")
    num_bytes = sum(len(message.text.encode()) for message in messages)
    if num_bytes > MAX_TEXT_BYTES:
        raise UsageError(
            f"A conversation of {num_bytes} bytes of text is too long: {MAX_TEXT_BYTES} at most are taken."
        )
