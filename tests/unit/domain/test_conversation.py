"""What may be a conversation, and what is refused with one sentence."""

from __future__ import annotations

import pytest

from splitvlm.domain import (
    MAX_IMAGES,
    MAX_MESSAGES,
    MAX_TEXT_BYTES,
    Conversation,
    ImagePart,
    Message,
    Speaker,
    TextPart,
)
from splitvlm.errors import UsageError

HELLO = Message(Speaker.USER, (TextPart("Hello"),))
ANSWER = Message(Speaker.ASSISTANT, (TextPart("Yes"),))


def test_a_question_about_images_shows_them_before_it() -> None:
    conversation = Conversation.about("Which is larger?", 2)
    [message] = conversation.messages
    assert message.parts == (ImagePart(), ImagePart(), TextPart("Which is larger?"))
    assert conversation.num_images == 2


def test_a_further_turn_keeps_what_came_before() -> None:
    first = Conversation.about("How many cells?")
    second = first.then("7", "And of those?", 1)
    assert second.messages[:1] == first.messages
    assert [message.speaker for message in second.messages] == [Speaker.USER, Speaker.ASSISTANT, Speaker.USER]
    assert second.num_images == 2


def test_an_image_alone_in_the_last_message_is_taken() -> None:
    conversation = Conversation((HELLO, ANSWER, Message(Speaker.USER, (ImagePart(),))))
    assert conversation.num_images == 1


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ((), "needs a message of the user"),
        ((Message(Speaker.SYSTEM, (TextPart("Be brief."),)),), "needs a message of the user"),
        ((HELLO, ANSWER), "last message is the assistant's"),
        ((HELLO,) * (MAX_MESSAGES + 1), "messages is too long"),
        ((Message(Speaker.USER, (ImagePart(),) * (MAX_IMAGES + 1) + HELLO.parts),), "images is too long"),
        ((Message(Speaker.SYSTEM, (ImagePart(),)), HELLO), "Only the user's messages"),
        ((Message(Speaker.SYSTEM, (TextPart("  "),)), HELLO), "message of the system is empty"),
        ((HELLO, Message(Speaker.USER, ())), "message of the user is empty"),
        ((Message(Speaker.USER, (ImagePart(), TextPart(" "))),), "question is empty"),
        ((Message(Speaker.USER, (TextPart("ä" * MAX_TEXT_BYTES),)),), "bytes of text is too long"),
    ],
)
def test_what_is_no_conversation_is_refused(messages: tuple[Message, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Conversation(messages)
