"""Reads what an AV1 bitstream says before it is decoded: its largest frame, and how many frames it holds.

AV1 specification, 5.3 (OBU headers) and 5.5 (sequence header). Frames that are not shown cost as much as those that are.
"""

from __future__ import annotations

from collections.abc import Iterator

from splitvlm.files.pictures.layout import MAX_BLOCKS, too_many_blocks, truncated

_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6


class _Bits:
    """Reads the bits of some bytes, from the first on."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise truncated()
        return self._value >> self._left & ((1 << count) - 1)

    def skip_variable(self) -> None:
        """Passes over a number whose length is told by its leading zeros (4.10.3)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        self.take(min(zeros, 32))


def decoded_pixels(bitstream: bytes) -> tuple[int, int]:
    """Returns the pixels of the largest frame that the bitstream allows, and of all its frames at that size."""
    largest, frames = 0, 0
    for kind, body in _units(bitstream):
        if kind == _SEQUENCE_HEADER:
            largest = max(largest, _largest_frame(_Bits(body[:64])))
        frames += kind in (_FRAME_HEADER, _FRAME)
    return largest, frames * largest


def _units(bitstream: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields each unit's type and its first bytes."""
    offset, length = 0, len(bitstream)
    for _ in range(MAX_BLOCKS):
        if offset >= length:
            return
        header = bitstream[offset]
        offset += 2 if header & 4 else 1  # with an extension
        size = length - offset
        if header & 2:
            size, offset = _leb128(bitstream, offset)
        yield header >> 3 & 15, bitstream[offset : min(offset + size, offset + 64)]
        offset += size
    raise too_many_blocks()


def _leb128(bitstream: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(bitstream[offset : offset + 8]):
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return value, offset + index + 1
    raise truncated()


def _largest_frame(bits: _Bits) -> int:
    bits.take(3)  # profile
    bits.take(1)  # still picture
    if bits.take(1):  # the header is reduced
        bits.take(5)  # level
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = 1 + bits.take(4), 1 + bits.take(4)
    return (1 + bits.take(width_bits)) * (1 + bits.take(height_bits))


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.take(1):  # timing information
        bits.take(64)
        if bits.take(1):  # equal intervals
            bits.skip_variable()
        if bits.take(1):  # decoder model
            delay_bits = 1 + bits.take(5)
            bits.take(32 + 5 + 5)
    with_display_delay = bits.take(1)
    for _ in range(1 + bits.take(5)):
        bits.take(12)
        if bits.take(5) > 7:  # level
            bits.take(1)  # tier
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if with_display_delay and bits.take(1):
            bits.take(4)
