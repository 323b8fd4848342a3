"""Conversations as messages carry them, and back."""

from __future__ import annotations

from splitvlm.domain import Conversation, ImagePart, Message, Part, Speaker, TextPart
from splitvlm.errors import UsageError
from splitvlm.wire.v1 import conversation_pb2 as pb

_TO_WIRE = {
    Speaker.USER: pb.SPEAKER_USER,
    Speaker.SYSTEM: pb.SPEAKER_SYSTEM,
    Speaker.ASSISTANT: pb.SPEAKER_ASSISTANT,
}
_FROM_WIRE = {number: speaker for speaker, number in _TO_WIRE.items()}


def conversation_to_wire(conversation: Conversation) -> pb.Conversation:
    """Returns the message of a conversation."""
    return pb.Conversation(
        messages=[
            pb.Message(speaker=_TO_WIRE[message.speaker], parts=map(_part_to_wire, message.parts))
            for message in conversation.messages
        ]
    )


def conversation_of(message: pb.Conversation) -> Conversation:
    """Returns what a message holds. Raises UsageError for what is no conversation."""
    return Conversation(tuple(map(_message, message.messages)))


def _message(message: pb.Message) -> Message:
    if message.speaker not in _FROM_WIRE:
        raise UsageError(f"There is no speaker {message.speaker}.", advice="Use system, user or assistant.")
    return Message(_FROM_WIRE[message.speaker], tuple(map(_part, message.parts)))


def _part(part: pb.Part) -> Part:
    match part.WhichOneof("kind"):
        case "text":
            return TextPart(part.text)
        case "image" if part.image:
            return ImagePart()
        case _:
            raise UsageError("A part of a message is neither text nor an image.")


def _part_to_wire(part: Part) -> pb.Part:
    return pb.Part(text=part.text) if isinstance(part, TextPart) else pb.Part(image=True)
