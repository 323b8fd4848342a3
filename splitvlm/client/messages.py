"""Makes a conversation and image files of what a program has: text, paths, bytes, PIL images, numpy arrays."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from splitvlm.domain import Conversation, ImagePart, Message, Part, Speaker, TextPart
from splitvlm.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    ImageLike = Path | bytes | Image.Image | np.ndarray[Any, Any]
else:
    ImageLike = Any  # Pillow and numpy are imported where a program uses them only

MAX_IMAGE_BYTES = 32 * 2**20


class ChatMessage(TypedDict):
    """Is one message: its content is a text, or a list of texts and images. A path is a pathlib.Path: a str is text."""

    role: Literal["system", "user", "assistant"]
    content: str | Sequence[str | ImageLike]


def asked(images: str | ImageLike | Sequence[str | ImageLike], question: str) -> tuple[Conversation, list[bytes]]:
    """Returns one question about images, which may also be named by paths as str. Raises UsageError."""
    shown: Any = images if isinstance(images, list | tuple) else [images]
    files = [image_file(Path(each) if isinstance(each, str) else each) for each in shown]
    return Conversation.about(question, len(files)), files


def chat(messages: Iterable[ChatMessage]) -> tuple[Conversation, list[bytes]]:
    """Returns the conversation of messages, and the files of its images in their order. Raises UsageError."""
    files: list[bytes] = []

    def part(item: str | ImageLike) -> Part:
        if isinstance(item, str):
            return TextPart(item)
        files.append(image_file(item))
        return ImagePart()

    made = []
    for message in messages:
        content = message["content"]
        parts = (content,) if isinstance(content, str) else content
        made.append(Message(_speaker(message["role"]), tuple(map(part, parts))))
    return Conversation(tuple(made)), files


def image_file(image: ImageLike) -> bytes:
    """Returns the bytes of an image's file; PIL images and arrays are coded as PNG, which loses nothing. Raises UsageError."""
    match image:
        case bytes():
            return image
        case Path():
            return read_image_file(image)
    opened = image if hasattr(image, "save") else _of_array(image)
    buffer = io.BytesIO()
    opened.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def read_image_file(path: Path) -> bytes:
    """Returns a file's bytes. Raises UsageError where it is missing, a folder, or too large; the node checks the format."""
    try:
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES:
            raise UsageError(f"{path} has {size} bytes; a picture has at most {MAX_IMAGE_BYTES}.", advice="Shrink it.")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read the picture {path}: {error.strerror}.") from error


def _of_array(array: Any) -> Any:
    if not hasattr(array, "__array_interface__"):
        raise UsageError(
            f"A {type(array).__name__} is no image.",
            advice="Give a path, the bytes of a file, a PIL image or a numpy array.",
        )
    from PIL import Image

    if array.ndim != 3 or array.shape[2] != 3 or str(array.dtype) != "uint8" or 0 in array.shape:
        raise UsageError(
            f"An array of shape {array.shape} and type {array.dtype} is no image.",
            advice="Give height, width and the channels R, G, B, as uint8.",
        )
    return Image.fromarray(array)


def _speaker(role: str) -> Speaker:
    try:
        return Speaker(role)
    except ValueError as error:
        raise UsageError(f"There is no role '{role}'.", advice="There are system, user and assistant.") from error
