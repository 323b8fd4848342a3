"""One run of bytes: stored as it is, or compressed by zstandard (RFC 8878) where that is smaller.

    block := head varint · bytes            head = 2 · len(bytes) + (1 if compressed)

How long the bytes are once decompressed is known to the decoder from what it has already checked; the block does not
say it. The zstandard frame is magicless, without content size, checksum or dictionary id: six to ten bytes less each.
"""

from __future__ import annotations

import threading
from typing import Final

import zstandard

from splitvlm.codec.header import Cursor, malformed, varint

# Levels 3 and 9 gain nothing on codes; 19 gains 0.4 % in 8 to 50 times the time (docs/experiments/codec-levels.md).
ZSTD_LEVEL: Final = 1
_FORMAT: Final = zstandard.FORMAT_ZSTD1_MAGICLESS
_MAX_WINDOW_BYTES: Final = 1 << 23  # RFC 8878 3.1.1.1.2: decoders should accept 8 MiB; level 1 uses 512 KiB
_SMALLEST: Final = 12  # shorter runs never shrink: frame and block headers take 5 bytes


class _Coders(threading.local):
    """Holds each thread's zstandard contexts, which must not be shared."""

    def __init__(self) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            ZSTD_LEVEL, format=_FORMAT, write_content_size=False, write_checksum=False, write_dict_id=False
        )
        self.compressor = zstandard.ZstdCompressor(compression_params=parameters)
        self.decompressor = zstandard.ZstdDecompressor(format=_FORMAT, max_window_size=_MAX_WINDOW_BYTES)


_coders = _Coders()


def block(data: bytes) -> bytes:
    """Returns `data` as a block, the smaller of stored and compressed."""
    if len(data) >= _SMALLEST:
        packed = _coders.compressor.compress(data)
        if len(packed) < len(data):
            return varint(2 * len(packed) + 1) + packed
    return varint(2 * len(data)) + data


def read_block(cursor: Cursor, decoded_bytes: int) -> bytes:
    """Returns the next block, which must decode to exactly `decoded_bytes`. Raises ProtocolError."""
    head = cursor.varint(2 * decoded_bytes + 1, "a block's length")
    raw = bytes(cursor.take(head >> 1))
    data = _decompress(raw, decoded_bytes) if head & 1 else raw
    if len(data) != decoded_bytes:
        malformed(f"a block holds {len(data)} bytes instead of {decoded_bytes}")
    return data


def _decompress(raw: bytes, decoded_bytes: int) -> bytes:
    if decoded_bytes < _SMALLEST or not _is_one_frame(raw):
        malformed("a block is not one plain zstandard frame")
    try:
        return _coders.decompressor.decompress(raw, max_output_size=decoded_bytes)
    except zstandard.ZstdError:
        malformed("a block does not decompress")


def _is_one_frame(raw: bytes) -> bool:
    """Tells whether `raw` is one frame and nothing else, and its header declares no size, which the library would allocate.

    RFC 8878 3.1.1: descriptor 0 (no content size, checksum, dictionary), window u8, then blocks, each headed by
    24 bits: last (1), type (2: stored, one repeated byte, compressed), size (21). The library accepts trailing bytes.
    """
    if raw[:1] != b"\0":
        return False
    offset, last = 2, False
    while not last and offset + 3 <= len(raw):
        head = int.from_bytes(raw[offset : offset + 3], "little")
        last = bool(head & 1)
        offset += 3 + (1 if head >> 1 & 3 == 1 else head >> 3)
    return last and offset == len(raw)
