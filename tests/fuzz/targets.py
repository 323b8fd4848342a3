"""What the fuzzers feed: every decoder of bytes that come from a peer, a local application or a file, and the session's states.

A target takes any bytes and returns, or lets an error of ours pass. Anything else is a finding. `seeds` are good inputs.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image

from cloud_node.engine.lane import Lane
from cloud_node.engine.prefix_cache import PrefixCache
from cloud_node.engine.protocol import JobTimes
from cloud_node.engine.torch_engine import TorchEngine
from cloud_node.settings import CloudLimits
from cloud_node.worker.admission import Admission
from cloud_node.worker.runtime import Runtime
from cloud_node.worker.session import Session
from splitvlm.calibration.level_training import learn
from splitvlm.codec import CodecLimits, encode_picture
from splitvlm.codec.codec import Codec
from splitvlm.codec.grid import PLACES
from splitvlm.codec.klt import Basis, transform_of
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.codec.picture import decode_picture, inspect_coded_picture, picture_levels
from splitvlm.codec.prompt import Template
from splitvlm.codec.reconstruction import Reconstructor
from splitvlm.crypto.authority import init_authority, issue
from splitvlm.crypto.handshake import CloudHandshake, DeviceHandshake, Hello
from splitvlm.crypto.identity import Role, load_identity
from splitvlm.domain import IMAGE, TOKENS, Conversation
from splitvlm.errors import SplitvlmError, UsageError
from splitvlm.files.pictures import FORMATS, PictureHeader
from splitvlm.link import tracefiles
from splitvlm.model.boundary import to_arrays
from splitvlm.model.loading import load_cloud, load_device
from splitvlm.model.pictures import inspect_picture, read_picture
from splitvlm.model.prompt import Prompt
from splitvlm.rpc import plans, profiles
from splitvlm.rpc.conversation import conversation_to_wire
from splitvlm.wire.v1 import control_pb2, data_pb2, profiles_pb2
from tests.fuzz.arriving import arrival, arrival_seeds, conversation, conversation_seeds, upload, upload_seeds
from tests.fuzz.http_body import http_body, http_body_seeds
from tests.fuzz.target import Target
from tests.picture_files import exif_block, jpeg_of_scans, jpeg_with_exif, png_with, saved
from tests.samples import tiny_model

CHANNELS, TOKENS_SEEN = 16, 12
MOST_PIXELS = 1 << 14
BOUNDARY_LIMITS = CodecLimits(max_tensors=4, max_dims=4, max_elements=1 << 14, max_decoded_bytes=1 << 16)
CLOUD_LIMITS = CloudLimits(max_payload_bytes=1 << 16, max_new_tokens=2, prefix_cache_bytes=1 << 20)


def boundary(data: bytes) -> None:
    with contextlib.suppress(SplitvlmError):
        found = _codec().decode(TOKENS, data, BOUNDARY_LIMITS)
        assert sum(array.size for array in found.values()) <= BOUNDARY_LIMITS.max_elements
        assert sum(array.nbytes for array in found.values()) <= BOUNDARY_LIMITS.max_decoded_bytes
        assert all(bool(np.isfinite(array).all()) for array in found.values())


def boundary_seeds() -> list[bytes]:
    hidden = _features(7)
    good = [
        {"hidden": hidden, "ids": np.arange(30)},
        {"hidden": hidden.astype(np.float16), "mask": np.ones(9, np.bool_)},
    ]
    return [_codec().encode(TOKENS, one, level) for one in good for level in _codec().levels(TOKENS)]


def picture(data: bytes) -> None:
    with contextlib.suppress(SplitvlmError):
        header = inspect_coded_picture(data, max_pixels=MOST_PIXELS)
        found = decode_picture(data, max_pixels=MOST_PIXELS)
        assert found.size == (header.width, header.height)
        assert found.width * found.height <= MOST_PIXELS


def picture_seeds() -> list[bytes]:
    return [encode_picture(_picture(), level) for level in picture_levels()]


def question_picture(data: bytes) -> None:
    """Whatever opens has the size that its header said, on its side or not."""
    with contextlib.suppress(SplitvlmError):
        header = _small_header(data)
        found = read_picture(data)
        assert {found.width, found.height} == {header.width, header.height}
        assert found.mode == "RGB"


def question_picture_seeds() -> list[bytes]:
    exif = exif_block([(0x0112, 3, 1, b"\6\0"), (0x010F, 2, 9, b"a camera\0")])
    grey = Image.linear_gradient("L").resize((48, 40))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    clear = _picture().copy()
    clear.putalpha(grey)
    return [
        jpeg_with_exif(_picture(), exif),
        *(saved(_picture(), kind) for kind in FORMATS if kind != "GIF"),
        *(saved(clear, kind) for kind in ("PNG", "WEBP", "AVIF", "TIFF")),
        *(saved(deep, "TIFF", compression=name, tiffinfo={0x0112: 6}) for name in (None, "tiff_lzw", "packbits")),
        jpeg_of_scans(12, edge_px=32),
        saved(_picture(), "JPEG", progressive=True),
        saved(_picture().convert("CMYK"), "JPEG"),
        png_with(saved(deep, "PNG"), b"sBIT", b"\x0c"),
        saved(_picture().quantize(16), "PNG", transparency=3),
        saved(_picture().quantize(16), "GIF", save_all=True, append_images=[_picture().quantize(4)], transparency=3),
        saved(_picture(), "WEBP", save_all=True, append_images=[clear.rotate(9)], exif=exif),
        saved(_picture(), "WEBP", lossless=True),
    ]


def _small_header(data: bytes) -> PictureHeader:
    """The header of a small picture: what is large takes a fuzzer's time and finds nothing."""
    header = inspect_picture(data)
    if header.width * header.height > MOST_PIXELS:
        raise UsageError("too large for a fuzzer")
    return header


def handshake(data: bytes) -> None:
    with contextlib.suppress(SplitvlmError, DecodeError):
        offered = data_pb2.Handshake.FromString(data)
        _cloud_handshake().accept(Hello(offered.ephemeral_public, offered.certificate_der, offered.signature))


def handshake_seeds() -> list[bytes]:
    hello = DeviceHandshake(_identity(Role.EDGE), b"context").hello()
    message = data_pb2.Handshake(
        ephemeral_public=hello.ephemeral_public, certificate_der=hello.certificate_der, signature=hello.signature
    )
    return [message.SerializeToString()]


def control(data: bytes) -> None:
    for message, read in (
        (control_pb2.PlanTable, plans.table_from_wire),
        (control_pb2.PlanLimits, plans.limits_from_wire),
        (profiles_pb2.DeviceProfile, profiles.device_profile_from_wire),
        (profiles_pb2.CloudProfile, profiles.cloud_profile_from_wire),
    ):
        with contextlib.suppress(SplitvlmError, DecodeError):
            read(message.FromString(data))


def control_seeds() -> list[bytes]:
    line = control_pb2.CostLine(plan="tokens/int4", device_s=0.1, payload_bytes=900, trips=1)
    return [
        control_pb2.PlanTable(version=3, cloud_address="127.0.0.1:1", lines=[line, line]).SerializeToString(),
        profiles_pb2.CloudProfile(
            variants=["full"], cuts=[profiles_pb2.CutTime(cut="tokens", seconds=1)]
        ).SerializeToString(),
        control_pb2.PlanLimits(max_leak=0.5, cuts=["tokens", "lm:2"], levels=["int4"]).SerializeToString(),
    ]


def trace(data: bytes) -> None:
    with contextlib.suppress(SplitvlmError):
        tracefiles.parse(data.decode("utf-8", "replace"), source="fuzzed")


def trace_seeds() -> list[bytes]:
    return [b"0\n3\n7\n7\n12\n", b"time_s,uplink_bps\n0,1000000\n1,250000\n", b"# comment\n0\n1\n"]


def session(data: bytes) -> None:
    """Frames of a device, each preceded by its length, through a real session with a real upper part."""
    asyncio.run(_session(data))


def session_seeds() -> list[bytes]:
    device = load_device(tiny_model("scenes-like"), [TOKENS])
    lower = device.lower(Prompt.about(_picture(), "Is there a lake?"), TOKENS)
    payload = Codec().encode(TOKENS, to_arrays(lower.boundary), "int4")
    pixels = encode_picture(_picture(), "jpeg75")

    def frames(*each: data_pb2.DeviceFrame) -> bytes:
        return b"".join(struct.pack("<H", one.ByteSize()) + one.SerializeToString() for one in each)

    begin = data_pb2.Begin(plan="tokens/int4", max_new_tokens=2, first=payload, prefix=bytes(8))
    whole = data_pb2.DeviceFrame(begin=begin)
    half = data_pb2.Begin(plan="tokens/int4", max_new_tokens=2, first=payload[:100], payload_bytes=len(payload))
    question = data_pb2.Begin(
        plan="image/jpeg75",
        first=pixels,
        conversation=conversation_to_wire(Conversation.about("Is there a lake?")),
        max_new_tokens=1,
    )
    prompt = Codec().encode(
        TOKENS, to_arrays({"ids": device.prompt_ids(Prompt.about(_picture(), "How many?"))}), "int4"
    )
    again = data_pb2.Begin(first=prompt, prefix=bytes(8), prefix_cached=True, resume_token_ids=[7])
    hidden, ids = lower.boundary["hidden"], lower.boundary["ids"]
    tiles = [
        Codec().encode(TOKENS, to_arrays(tile), "int4")
        for tile in ({"hidden": hidden[:5], "ids": ids}, {"hidden": hidden[5:]})
    ]
    first = data_pb2.Begin(plan="tokens/int4", max_new_tokens=2, first=tiles[0], segments=2)
    rest = data_pb2.Segment(first=tiles[1][:60], payload_bytes=len(tiles[1]))
    cancel = data_pb2.DeviceFrame(cancel=data_pb2.Cancel())
    return [
        frames(whole, data_pb2.DeviceFrame(begin=again)),
        frames(data_pb2.DeviceFrame(begin=half), data_pb2.DeviceFrame(chunk=payload[100:]), cancel),
        frames(data_pb2.DeviceFrame(begin=question), data_pb2.DeviceFrame(step=b"x")),
        frames(
            data_pb2.DeviceFrame(begin=first),
            data_pb2.DeviceFrame(segment=rest),
            data_pb2.DeviceFrame(chunk=tiles[1][60:]),
            whole,
        ),
        frames(cancel, data_pb2.DeviceFrame(), whole),
    ]


class _Plain:
    """A stream whose frames are not sealed."""

    def __init__(self) -> None:
        self.bytes_received = 0

    def open(self, data: bytes) -> data_pb2.DeviceFrame:
        self.bytes_received += len(data)
        return data_pb2.DeviceFrame.FromString(data)

    async def send(self, frame: data_pb2.CloudFrame) -> None:
        frame.SerializeToString()


class _Inline:
    """A lane without a thread."""

    def __init__(self, between: Callable[[], bool] = lambda: False) -> None:
        self._between = between

    async def run(self, owner: str, job: Callable[[], Any]) -> tuple[Any, JobTimes]:
        await asyncio.sleep(0)
        try:
            return job(), JobTimes(0.0, 0.0)
        finally:
            self.wake()

    def wake(self) -> None:
        while self._between():
            pass


async def _session(data: bytes) -> None:
    memory, lane = PrefixCache(CLOUD_LIMITS.prefix_cache_bytes, 60.0), cast(Lane, _Inline())
    admission = Admission(CLOUD_LIMITS, lambda *_: 0.0)
    runtime = Runtime(
        _part(),
        Codec(),
        TorchEngine(_part(), 2**28, lambda between: cast(Lane, _Inline(between))),
        lane,
        admission,
        memory,
    )
    one = Session(_Plain(), runtime, CLOUD_LIMITS, "edge-1", lambda: None)  # type: ignore[arg-type]

    async def envelopes() -> AsyncIterator[bytes | None]:
        place = 0
        while place + 2 <= len(data):
            (length,) = struct.unpack_from("<H", data, place)
            yield data[place + 2 : place + 2 + length]
            place += 2 + length
            for _ in range(4):
                await asyncio.sleep(0)
        for _ in range(12):
            await asyncio.sleep(0)
        yield None

    frames = envelopes()
    with contextlib.suppress(SplitvlmError, DecodeError):
        await one.run(frames.__anext__)  # type: ignore[arg-type]
    assert memory.num_bytes <= CLOUD_LIMITS.prefix_cache_bytes
    assert admission.working_bytes == 0


@cache
def _part() -> Any:
    return load_cloud(tiny_model("scenes-like"), [IMAGE])


@cache
def _codec() -> Codec:
    transform = transform_of(np.concatenate([_features(seed) for seed in range(40)]))
    seen = [_features(seed) for seed in range(20)]
    levels = {level: learn(seen, transform, level, 4, steps=5) for level in KLT_STEPS}
    shapes = (5, 9, 96), (96,), (PLACES, 96), (96, 96), (96,), (96, 12), (12,)
    reconstructor = Reconstructor(4, 4, *(np.full(shape, 0.1, np.float32) for shape in shapes))
    levels["klt3"] = replace(levels["klt3"], reconstructor=reconstructor)
    template = Template((3, 4), (5,), 600)
    return Codec({TOKENS: Basis(transform, levels, (TOKENS_SEEN,), template)}, "fuzzed")


def _features(seed: int) -> np.ndarray:  # type: ignore[type-arg]
    random = np.random.default_rng(seed)
    return (random.normal(size=(TOKENS_SEEN, CHANNELS)) * np.arange(1, CHANNELS + 1)).astype(np.float32)


def _picture() -> Image.Image:
    return Image.linear_gradient("L").resize((48, 40)).convert("RGB")


@cache
def _identity(role: Role) -> Any:
    return load_identity(issue(_keys(), f"{role}-1", role))


@cache
def _keys() -> Path:
    folder = Path(mkdtemp(prefix="splitvlm-fuzz-")) / "keys"
    init_authority(folder)
    return folder


@cache
def _cloud_handshake() -> CloudHandshake:
    return CloudHandshake(_identity(Role.CLOUD), b"context")


TARGETS = {
    "boundary": Target(boundary, boundary_seeds),
    "picture": Target(picture, picture_seeds),
    "question_picture": Target(question_picture, question_picture_seeds),
    "handshake": Target(handshake, handshake_seeds),
    "arrival": Target(arrival, arrival_seeds),
    "upload": Target(upload, upload_seeds),
    "conversation": Target(conversation, conversation_seeds),
    "session": Target(session, session_seeds),
    "http_body": Target(http_body, http_body_seeds),
    "control": Target(control, control_seeds),
    "trace": Target(trace, trace_seeds),
}
