"""Measures what one request's upload took: sealed bytes and times, segment by segment. No clock and no socket inside.

All times are seconds of one clock (`time.perf_counter` of this device); every method that needs the time takes `now_s`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Receipt:
    """Holds a cloud node's word for one segment: its sealed bytes, and the seconds between its first and its last frame."""

    num_bytes: int
    span_s: float


@dataclass(frozen=True, slots=True)
class SegmentStart:
    """Holds the moment at which a segment began, and the sealed bytes that the session had sent until then."""

    sealed_bytes: int
    at_s: float


@dataclass(slots=True)
class Upload:
    """Follows one request's segments on their way over one session.

    The link is measured from when nothing else was on its way: before that, it waited for the device.
    """

    began_s: float | None = None  # of the measured stretch; None while nothing is on its way
    sent_bytes: int = 0  # of segments that went since then, before sealing,
    received_bytes: int = 0  # and of those that arrived, sealed
    elapsed_s: float = 0.0  # of the measured stretch, until the last segment's receipt
    receipt: Receipt | None = None  # of the last segment: the upload has ended
    _starts: list[SegmentStart] = field(default_factory=list)
    _num_receipts: int = 0

    @property
    def segments_under_way(self) -> int:
        """Returns how many segments have begun and were not confirmed yet."""
        return len(self._starts) - self._num_receipts

    @property
    def request_began_s(self) -> float:
        """Returns when the first segment began, in seconds of the clock."""
        return self._starts[0].at_s

    def segment_began(self, num_bytes: int, session_sealed_bytes: int, now_s: float) -> None:
        """Notes that a segment of `num_bytes` goes now; the session has sent `session_sealed_bytes` so far."""
        if not self.segments_under_way:
            self.began_s = now_s
            self.sent_bytes = self.received_bytes = 0
        self.sent_bytes += num_bytes
        self._starts.append(SegmentStart(session_sealed_bytes, now_s))

    def oldest_segment(self, session_sealed_bytes: int, now_s: float) -> tuple[int, float]:
        """Returns the sealed bytes of the oldest segment under way, and the seconds since it began."""
        start, *later = self._starts[self._num_receipts :]
        until_bytes = later[0].sealed_bytes if later else session_sealed_bytes
        return until_bytes - start.sealed_bytes, now_s - start.at_s

    def segment_received(self, receipt: Receipt, now_s: float, *, last: bool) -> None:
        """Notes that the oldest segment under way was confirmed."""
        assert self.began_s is not None, "it was sent before"
        self._num_receipts += 1
        self.received_bytes += receipt.num_bytes
        if last:
            self.receipt = receipt
            self.elapsed_s = now_s - self.began_s
        elif not self.segments_under_way:
            self.began_s = None
