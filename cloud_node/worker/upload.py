"""One request's payload as it comes in, segment by segment. Sizes are believed only after they were checked."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from splitvlm.domain import CutKind, Plan
from splitvlm.errors import ProtocolError, UsageError
from splitvlm.rpc.limits import MAX_SEGMENTS
from splitvlm.wire.v1.data_pb2 import Begin, CloudFrame, Receipt


@dataclass
class Upload:
    """Counts and joins a payload that is coming in."""

    begin: Begin
    max_payload_bytes: int
    is_picture: bool = field(init=False)  # images are opened here, those of a cached prefix, too
    began_s: float = field(default_factory=time.perf_counter, init=False)
    segments_left: int = field(default=0, init=False)  # to come
    _declared: int = field(default=0, init=False)  # bytes of this segment, and of all so far
    _declared_in_all: int = field(default=0, init=False)
    _pieces: list[bytes] = field(default_factory=list, init=False)
    _received: int = field(default=0, init=False)
    _wire_bytes: int = field(default=0, init=False)
    _first_s: float = field(default=0.0, init=False)
    _last_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        count = self.begin.segments or 1
        kind = Plan.parse(self.begin.plan).cut.kind
        self.is_picture = kind is CutKind.IMAGE
        whole = kind is CutKind.LM or (self.begin.prefix_cached and not self.is_picture)
        if count > (1 if whole else MAX_SEGMENTS):
            raise UsageError(
                f"A payload of the plan {self.begin.plan} is not taken in {count} segments.",
                advice=f"Images, and their tiles at vision:k and tokens, are segments, at most {MAX_SEGMENTS}.",
            )
        self.segments_left = count
        self.next_segment(self.begin.payload_bytes)

    def next_segment(self, declared_bytes: int) -> None:
        """Begins the next segment. Raises UsageError where it is too large, ProtocolError where none is to come."""
        if not self.segments_left or not self.segment_complete:
            raise ProtocolError("The peer began a part that it did not declare, or before the last one was complete.")
        self.segments_left -= 1
        self._declared, self._declared_in_all = declared_bytes, self._declared_in_all + declared_bytes
        self._pieces, self._received, self._wire_bytes, self._first_s = [], 0, 0, 0.0
        least = 0 if self.is_picture and not self.segments_left else 1  # no image may be to come
        if not least <= declared_bytes <= self._declared_in_all <= self.max_payload_bytes:
            raise UsageError(
                f"A payload of {self._declared_in_all} bytes is not taken; the limit is {self.max_payload_bytes}.",
                advice="Choose a smaller codec level, a deeper cut, or raise limits.max_payload_bytes.",
            )

    def add(self, piece: bytes, wire_bytes: int) -> None:
        """Takes the next piece of the segment. Raises ProtocolError when there is more than was declared."""
        now_s = time.perf_counter()
        self._first_s = self._first_s or now_s
        self._last_s = now_s
        self._received += len(piece)
        self._wire_bytes += wire_bytes
        if self._received > self._declared:
            raise ProtocolError("The peer sent more than the payload that it declared.")
        self._pieces.append(piece)

    @property
    def is_first_segment(self) -> bool:
        """Tells whether the segment in work is the payload's first."""
        return self.segments_left == (self.begin.segments or 1) - 1

    @property
    def segment_complete(self) -> bool:
        """Tells whether all of the segment in work has come."""
        return self._received == self._declared

    def segment(self) -> bytes:
        """Returns all of the segment, once: it is not kept here."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def receipt(self) -> CloudFrame:
        """Returns what the device is told of the segment: its sealed bytes, and the time from its first frame to its last."""
        span_us = int(1e6 * (self._last_s - self._first_s))
        return CloudFrame(receipt=Receipt(bytes=self._wire_bytes, span_us=span_us))
