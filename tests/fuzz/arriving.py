"""Fuzz targets of what arrives at a cloud node: a payload's parts, and the boundaries of every family."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

from google.protobuf.message import DecodeError
from PIL import Image

from cloud_node.worker.upload import Upload
from splitvlm.codec import CodecLimits
from splitvlm.codec.codec import Codec
from splitvlm.domain import IMAGE, Conversation, Cut, CutKind, Message, Speaker, TextPart
from splitvlm.errors import SplitvlmError
from splitvlm.model.boundary import to_arrays, to_tensors, without_data
from splitvlm.model.boundary_checks import check_shapes, check_step_shape
from splitvlm.model.loading import load_cloud, load_device
from splitvlm.model.prompt import Prompt
from splitvlm.model.tiles import in_tiles
from splitvlm.rpc.conversation import conversation_of, conversation_to_wire
from splitvlm.rpc.limits import MAX_SEGMENTS
from splitvlm.wire.v1 import conversation_pb2, data_pb2
from tests.samples import tiny_model
from tests.tiny_models import FAMILIES

CUTS = tuple(Cut.parse(text) for text in ("vision:1", "tokens", "lm:1"))
KINDS = [(kind, cut) for kind in FAMILIES for cut in CUTS]
MOST_SHOWN = 4  # images: with more the prompt is refused for their number
LIMITS = CodecLimits(max_tensors=4, max_dims=4, max_elements=1 << 14, max_decoded_bytes=1 << 16)


def arrival(data: bytes) -> None:
    """A boundary for a cut of a family, which the first byte names: what its outline says is what is decoded, and checked."""
    if not data:
        return
    kind, cut = KINDS[data[0] % len(KINDS)]
    part, codec = _family_part(kind), Codec()
    with contextlib.suppress(SplitvlmError):
        outline = without_data(codec.outline(cut, data[1:], LIMITS))
        found = to_tensors(codec.decode(cut, data[1:], LIMITS))
        assert {name: (t.shape, t.dtype) for name, t in found.items()} == {
            name: (t.shape, t.dtype) for name, t in outline.items()
        }
        with contextlib.suppress(SplitvlmError):
            check_step_shape(part, outline)
        with contextlib.suppress(SplitvlmError):
            if cut.kind is not CutKind.LM:  # there a payload is one part
                in_tiles(part, cut, found, 1)
        check_shapes(part, cut, outline)
        part.upper(cut, found, 1)


def arrival_seeds() -> list[bytes]:
    seeds = []
    for number, (kind, cut) in enumerate(KINDS):
        device = load_device(tiny_model(kind), [cut])
        prompt = Prompt.about(Image.linear_gradient("L").resize((48, 40)).convert("RGB"), "How many?")
        good = device.lower(prompt, cut).boundary
        seeds.append(bytes((number,)) + Codec().encode(cut, to_arrays(good), "lossless"))
    return seeds


def upload(data: bytes) -> None:
    """A payload's parts: a declared begin, then pieces and further parts as the bytes say. Nothing beyond what was declared."""
    most, plans = 5_000, ("tokens", "vision:1", "lm:1", "image", "nonsense")
    head = data[:4].ljust(4, b"\0")
    begin = data_pb2.Begin(
        plan=plans[head[0] % 5], payload_bytes=head[1] * 16, segments=head[2] % 70, prefix_cached=head[3] % 5 == 1
    )
    with contextlib.suppress(SplitvlmError):
        one, declared, received = Upload(begin, most), begin.payload_bytes, 0
        for byte in data[4:]:
            if byte < 40:
                one.next_segment(byte * 8)
                declared += byte * 8
            else:
                one.add(bytes(byte), byte)
                received += byte
            assert received <= declared <= most
            assert 0 <= one.segments_left < MAX_SEGMENTS
            if one.segment_complete:
                assert one.receipt().receipt.bytes >= len(one.segment())


def upload_seeds() -> list[bytes]:
    return [bytes((0, 10, 0, 0, 160)), bytes((1, 5, 3, 0, 80, 20, 100, 60, 10, 80)), bytes((3, 0, 0, 1))]


def conversation(data: bytes) -> None:
    """Messages as a peer says them: each image part becomes one image's tokens, and no text becomes any."""
    with contextlib.suppress(SplitvlmError, DecodeError):
        asked = conversation_of(conversation_pb2.Conversation.FromString(data))
        assert conversation_of(conversation_to_wire(asked)) == asked
        part, images = _family_part("scenes-like"), (Image.new("RGB", (32, 32)),) * min(asked.num_images, MOST_SHOWN)
        ids = part.prompt_ids(Prompt(asked, images)).tolist()
        assert ids.count(part.model.config.image_token_id) == len(images) * part.processor.image_seq_len


def conversation_seeds() -> list[bytes]:
    asked = Conversation.about("Which is larger?", 2)
    system = Message(Speaker.SYSTEM, (TextPart("Be brief."),))
    conversations = asked, asked.then("The first.", "<image> or <ima", 1), Conversation((system, *asked.messages))
    return [conversation_to_wire(each).SerializeToString() for each in conversations]


@cache
def _family_part(kind: str) -> Any:
    return load_cloud(tiny_model(kind), [IMAGE])
