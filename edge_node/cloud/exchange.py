"""What was seen of one request on the wire."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from splitvlm.wire.v1 import data_pb2 as pb


@dataclass
class Exchange:
    """What was seen of one request on the wire: the clock is this device's, except for `end`."""

    bytes_sent: int = 0
    bytes_received: int = 0
    upload_began_s: float | None = None  # of time.perf_counter; None while nothing is on its way
    upload_bytes: int = 0  # of parts that went since then,
    received_bytes: int = 0  # and of those that arrived, sealed
    segments_under_way: int = 0
    heard_s: float | None = None  # the same: the node's last sign of life
    longest_silence_s: float = 0.0  # of the node, when it had all that it needed to go on
    upload_elapsed_s: float = 0.0  # from the first frame of `upload_bytes` until the last part's receipt
    receipt: pb.Receipt = field(default_factory=pb.Receipt)
    end: pb.End = field(default_factory=pb.End)

    def restart(self) -> None:
        """Before the request is sent once more. Bytes add up."""
        self.receipt.Clear()
        self.upload_began_s = None
        self.upload_bytes = self.received_bytes = self.segments_under_way = 0
        self.upload_elapsed_s = 0.0

    def hand_over(self, num_bytes: int) -> None:
        """A part goes. The link is measured from when nothing else was on its way: before, it waited for the device."""
        if not self.segments_under_way:
            self.upload_began_s = time.perf_counter()
            self.upload_bytes = self.received_bytes = 0
        self.upload_bytes += num_bytes
        self.segments_under_way += 1

    def received(self, receipt: pb.Receipt, *, last: bool) -> None:
        """A part's receipt came."""
        assert self.upload_began_s is not None, "it was sent before"
        self.segments_under_way -= 1
        self.received_bytes += receipt.bytes
        if last:
            self.receipt = receipt
            self.upload_elapsed_s = time.perf_counter() - self.upload_began_s
        elif not self.segments_under_way:
            self.upload_began_s = None
