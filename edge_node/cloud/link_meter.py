"""Meters one link's requests, session set-ups and probes: transfers for the estimator, sealed bytes for metered links.

What a cloud node says of times and bytes counts as far as it agrees with this device's own clock and bytes.
"""

from __future__ import annotations

import time

from edge_node.cloud.session import CloudSession
from edge_node.cloud.uploads import Upload
from splitvlm.link.estimator import LinkEstimate, LinkEstimator
from splitvlm.link.probing import ProbeSchedule
from splitvlm.rpc.limits import CHUNK_BYTES

FRAMING_BYTES = (
    70  # around a message on the wire: TLS, HTTP/2 and gRPC, with the headers or the window updates beside it
)


class LinkMeter:
    """Holds the estimator and the probe schedule of one link, and tells them what was seen."""

    def __init__(self) -> None:
        self.estimator = LinkEstimator()
        self.schedule = ProbeSchedule()
        self._unbooked_bytes = 0

    def estimate(self) -> LinkEstimate:
        """Returns what the link is believed to be now."""
        return self.estimator.estimate(time.monotonic())

    def take_bytes(self) -> int:
        """Returns the bytes of requests, sessions and probes sent since the last call."""
        taken, self._unbooked_bytes = self._unbooked_bytes, 0
        return taken

    def on_question(self) -> None:
        """Notes that a question came, wherever it is answered."""
        self.schedule.asked(time.monotonic())

    def on_session(self, session: CloudSession) -> None:
        """Notes that a session was set up: its first bytes are a transfer like any other."""
        self._unbooked_bytes += session.setup_bytes
        hello_bytes = session.hello_bytes + FRAMING_BYTES
        self.estimator.on_transfer(hello_bytes, None, session.setup_s, 0.0, time.monotonic())

    def on_probe_sent(self, num_bytes: int) -> None:
        """Notes that a probe of `num_bytes`, serialised, leaves."""
        self._unbooked_bytes += num_bytes

    def on_probe(self, payload_bytes: int, num_bytes: int, elapsed_s: float, server_us: int) -> None:
        """Notes that a probe of `num_bytes` was answered; without a payload it is a round trip."""
        now_s, server_s = time.monotonic(), min(1e-6 * server_us, elapsed_s)
        if payload_bytes == 0:
            self.estimator.on_rtt(elapsed_s - server_s, now_s, num_bytes=FRAMING_BYTES)
        wire_bytes = num_bytes + FRAMING_BYTES if payload_bytes else 0
        self.estimator.on_transfer(wire_bytes, None, elapsed_s, server_s, now_s, probe=payload_bytes > 0)

    def on_request_end(self, upload: Upload, sealed_bytes: int) -> None:
        """Notes that a request that sent `sealed_bytes` ended; also one that the device overtook, or whose node failed."""
        self._unbooked_bytes += sealed_bytes
        self.schedule.sent(sealed_bytes)
        if upload.receipt is not None:
            self._on_upload(upload, sealed_bytes)
        elif upload.began_s is not None:
            self.on_stall(upload)

    def on_stall(self, upload: Upload) -> None:
        """Notes that an upload hangs: at most what was sent crossed. What sockets on the way hold cannot be seen."""
        assert upload.began_s is not None, "something is on its way"
        away_s = time.perf_counter() - upload.began_s - self.estimate().rtt_s
        self.estimator.on_stall(upload.sent_bytes, max(0.0, away_s), time.monotonic())

    def _on_upload(self, upload: Upload, sealed_bytes: int) -> None:
        assert upload.receipt is not None, "the upload has ended"
        alone = upload.received_bytes == upload.receipt.num_bytes
        received_bytes = min(upload.received_bytes, sealed_bytes)
        span_s = min(upload.receipt.span_s, upload.elapsed_s)
        self.estimator.on_transfer(
            received_bytes + FRAMING_BYTES,
            span_s if span_s and alone else None,  # of several segments it is the last one's
            upload.elapsed_s,
            0.0,
            time.monotonic(),
            first_frame_bytes=min(CHUNK_BYTES, received_bytes),
        )
