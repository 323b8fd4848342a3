"""Whatever bytes arrive: tensors within the limits, or ProtocolError, and no more memory than the limits allow."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from splitvlm.codec import FEATURE_LEVELS, CodecLimits
from splitvlm.codec.blocks import block
from splitvlm.codec.header import DTYPES, Coding, varint
from splitvlm.errors import ProtocolError
from tests.coding import decode, encode

LIMITS = CodecLimits(max_tensors=4, max_dims=4, max_elements=1 << 14, max_decoded_bytes=1 << 16)
BYTES_AN_ELEMENT = 48  # as splitvlm.codec.limits promises
SLACK_BYTES = 1 << 19  # Python's own objects, and zstandard's context


def sample(level: str) -> bytes:
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(5))
    x[:, 3] *= 300
    x[0] *= 100
    ids = torch.tensor([[1, 5, *[49190] * 64, 7, 300]])
    side = torch.linspace(-1, 1, 40, dtype=torch.bfloat16)
    return encode({"hidden": x, "ids": ids, "side": side, "mask": torch.ones(9, dtype=torch.bool)}, level)


SAMPLES = {level: sample(level) for level in FEATURE_LEVELS}


def decode_or_refuse(data: bytes) -> None:
    try:
        boundary = decode(data, limits=LIMITS)
    except ProtocolError:
        return
    assert sum(tensor.numel() for tensor in boundary.values()) <= LIMITS.max_elements
    assert sum(tensor.nbytes for tensor in boundary.values()) <= LIMITS.max_decoded_bytes
    assert all(torch.isfinite(tensor).all() for tensor in boundary.values() if tensor.is_floating_point())


@pytest.mark.parametrize("level", FEATURE_LEVELS)
def test_every_truncation_is_refused(level: str) -> None:
    data = SAMPLES[level]
    for end in range(0, len(data), max(1, len(data) // 400)):
        with pytest.raises(ProtocolError):
            decode(data[:end], limits=LIMITS)


@pytest.mark.parametrize("level", FEATURE_LEVELS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_flipped_bits_never_surprise(level: str, data: st.DataObject) -> None:
    coded = bytearray(SAMPLES[level])
    near_start = st.integers(0, min(200, len(coded) - 1))
    for place in data.draw(st.lists(near_start | st.integers(0, len(coded) - 1), min_size=1, max_size=4)):
        coded[place] ^= 1 << data.draw(st.integers(0, 7))
    decode_or_refuse(bytes(coded))


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_noise_never_surprises(noise: bytes) -> None:
    decode_or_refuse(noise)
    decode_or_refuse(b"\x01\x01" + noise)


@pytest.mark.parametrize("level", FEATURE_LEVELS)
def test_trailing_bytes_are_refused(level: str) -> None:
    with pytest.raises(ProtocolError, match="left over"):
        decode(SAMPLES[level] + b"\0", limits=LIMITS)


def tensor_bytes(dtype: str, coding: Coding, shape: tuple[int, ...], body: bytes) -> bytes:
    kind = DTYPES.index(dtype) | coding << 4
    head = bytes((1, 1, 1, kind, len(shape))) + b"".join(map(varint, shape))
    return head + varint(len(body)) + body


def zeros_block(count: int) -> bytes:
    return block(bytes(count))


def bomb(elements: int, inside: int) -> bytes:
    """A uint8 tensor of `elements` whose plane decompresses to `inside` bytes."""
    return tensor_bytes("uint8", Coding.INTEGERS, (elements,), b"\0" + zeros_block(inside))


def run_bomb(elements: int) -> bytes:
    """One run, as long as a tensor of `elements` int64 can be."""
    packed = b"\0" + varint(elements - 1)
    return tensor_bytes("int64", Coding.INTEGERS, (elements,), b"\1" + varint(len(packed)) + block(packed))


HOSTILE = {
    "larger than the limit": bomb(1 << 20, 1 << 20),
    "a block that holds more": bomb(1 << 10, 1 << 26),
    "a block that holds less": bomb(1 << 10, 1 << 9),
    "a run beyond the limit": run_bomb(1 << 40),
    "a product of dimensions": tensor_bytes("uint8", Coding.INTEGERS, (1 << 14, 1 << 14, 1 << 14), b""),
    "too many dimensions": tensor_bytes("uint8", Coding.INTEGERS, (1,) * 9, b"\0\0\0"),
    "decoded bytes above the limit": run_bomb(1 << 14),
    "an unknown version": b"\x02\x00",
    "too many tensors": b"\x01\x05" + b"\x01\x00\x01\x00\x00" * 5,
    "an unknown dtype": b"\x01\x01\x01\x0f\x01\x00\x00",
    "a varint without end": b"\x01\x01\x01\x00\x01" + b"\xff" * 12,
    "integers as groups": tensor_bytes("int64", Coding.GROUPS, (64,), bytes(64)),
    "a bool that is 7": tensor_bytes("bool", Coding.INTEGERS, (1,), b"\0\x02\x07"),
    "NaN": tensor_bytes("float16", Coding.PLANES, (1,), b"\x02\xff\x02\x00"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_hostile_is_refused_before_memory_is_taken(what: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode(HOSTILE[what], limits=LIMITS)
        assert tracemalloc.get_traced_memory()[1] < BYTES_AN_ELEMENT * LIMITS.max_elements + SLACK_BYTES
    finally:
        tracemalloc.stop()


def test_a_block_that_declares_its_own_size_is_refused() -> None:
    """The library would allocate what the frame says, not what we allow."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=True
    )
    frame = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(1000))
    body = b"\0" + varint(2 * len(frame) + 1) + frame
    with pytest.raises(ProtocolError, match="plain zstandard frame"):
        decode(tensor_bytes("uint8", Coding.INTEGERS, (1000,), body), limits=LIMITS)


def test_bytes_behind_a_frame_are_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False
    )
    frame = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(1000)) + b"xyz"
    body = b"\0" + varint(2 * len(frame) + 1) + frame
    with pytest.raises(ProtocolError, match="plain zstandard frame"):
        decode(tensor_bytes("uint8", Coding.INTEGERS, (1000,), body), limits=LIMITS)


@pytest.mark.parametrize("level", FEATURE_LEVELS)
def test_decoding_takes_the_memory_that_the_limits_promise(level: str) -> None:
    limits = CodecLimits()
    x = torch.randn(512, 512, generator=torch.Generator().manual_seed(6))
    worst = torch.randint(0, 255, (1 << 18,), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    for tensor in (x, x.half(), worst, worst // 128):
        data = encode({"hidden": tensor}, level)
        tracemalloc.start()
        decode(data, limits=limits)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < BYTES_AN_ELEMENT * tensor.numel() + SLACK_BYTES
