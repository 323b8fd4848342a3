"""Decides when the link is probed, and with how many bytes. No clock and no socket inside: every method takes `now_s`.

Questions and their receipts measure the link for nothing. A probe is sent only for what they leave open:

- whether the cloud node still answers, and how far it is: empty, after a silence that grows with the time without questions,
  for a minute;
- on which side of a rate at which the choice of plan changes (a *deciding rate*) the link is: where such a rate lies within
  the forecast, and transfers told nothing of it lately. It is as large as that rate carries in the time that can be told from a
  scheduler's jitter: one that takes longer says "slower", one that does not says "faster".

Sized probes are paid from a credit, which is a small share of what the questions themselves send: a device that asks nothing
sends none, and a forecast in which one plan is best throughout costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from splitvlm.link.estimator import MAX_PROBE_BYTES, MOST_PROBED_BPS, LinkEstimate, LinkEstimator
from splitvlm.link.small_transfers import TELLING_S

SILENCE_S = 5.0  # while questions come, the least pause after which an empty probe asks whether anybody is there
ROUND_TRIP_S = 45.0  # between two measurements of the round trip alone: half the estimator's window
UNTOLD_S = 3.0  # of transfers that tell next to nothing of the rate
OF_IDLE = 0.5  # of the time without questions: pauses grow by half,
QUIET_AFTER_S = 60.0  # and then nothing is probed: the connection's own pings find a peer that is gone
QUIET_S = 86_400.0
MOST_UNREACHABLE_S = 60.0  # between looks for a cloud node that is away: a later question must find it back
CALL_BYTES = 150  # TCP payload of an empty call, device to cloud: HTTP/2, gRPC, TLS (counted by benchmarks/probing.py)
SHARE = 0.06  # of the questions' bytes, for sized probes
FIRST_CREDIT_BYTES = 1_000
LOCAL_CREDIT_BYTES = 400  # for a question that the device answered alone: it must learn that the link is back
MOST_CREDIT_BYTES = 4 * MAX_PROBE_BYTES
MIN_PROBE_BYTES = 256


class ProbeSchedule:
    """Decides when a device probes a cloud node; one object for each pair, beside the estimator."""

    __slots__ = ("_asked_s", "_considered_s", "_credit_bytes", "_sent")

    def __init__(self) -> None:
        self._asked_s: float | None = None  # the last question, or the first look
        self._considered_s = -math.inf  # when a sized probe was last weighed
        self._credit_bytes = float(FIRST_CREDIT_BYTES)
        self._sent = False  # whether the last question went to the cloud

    def asked(self, now_s: float) -> None:
        """Notes that a question came, wherever it is answered."""
        if self._asked_s is not None and not self._sent:
            self._earn(LOCAL_CREDIT_BYTES)
        self._sent = False
        self._asked_s = now_s

    def sent(self, request_bytes: float) -> None:
        """Notes that a question sent so many bytes to the cloud."""
        self._sent = True
        self._earn(SHARE * request_bytes)

    def spent(self, probe_bytes: int) -> None:
        """Notes that a sized probe was sent."""
        self._credit_bytes -= probe_bytes + CALL_BYTES

    def wait_s(self, now_s: float, estimator: LinkEstimator) -> float:
        """Returns seconds until there may be something to probe."""
        self._begin(now_s)
        alone_wait_s = self.empty_wait_s(now_s, estimator)
        if estimator.heard_s is None or self._credit_bytes < MIN_PROBE_BYTES + CALL_BYTES:
            return alone_wait_s
        told_s = max(estimator.told_s, self._considered_s)
        return min(alone_wait_s, told_s + max(UNTOLD_S, self._pause_s(estimator.heard_s)) - now_s)

    def empty_wait_s(self, now_s: float, estimator: LinkEstimator) -> float:
        """Returns seconds until an empty probe is wanted: whether anybody is there, and how far away."""
        if estimator.heard_s is None:
            return 0.0
        pause_s = self._pause_s(estimator.heard_s)
        wanted_s = estimator.heard_s + max(SILENCE_S, pause_s), estimator.rtt_at_s + max(ROUND_TRIP_S, pause_s)
        return min(wanted_s) - now_s

    def unreachable_wait_s(self, now_s: float, tried_s: float) -> float:
        """Returns seconds until a node that is away is looked for again."""
        self._begin(now_s)
        return tried_s + min(self._pause_s(tried_s), MOST_UNREACHABLE_S) - now_s

    def size(self, estimate: LinkEstimate, deciding_bps: Sequence[float], now_s: float) -> int:
        """Returns bytes of the probe that could change the choice of plan and can be paid; 0: none could."""
        self._considered_s = now_s
        size = telling_bytes(estimate, deciding_bps)
        return size if size + CALL_BYTES <= self._credit_bytes else 0

    def _earn(self, num_bytes: float) -> None:
        self._credit_bytes = min(MOST_CREDIT_BYTES, self._credit_bytes + num_bytes)

    def _begin(self, now_s: float) -> None:
        """Begins the schedule: a device that was never asked has been idle since its start."""
        if self._asked_s is None:
            self._asked_s = now_s

    def _pause_s(self, heard_s: float) -> float:
        """Returns next to nothing while questions come; without them, a share of the time since the last one."""
        idle_s = max(0.0, heard_s - self._asked_s) if self._asked_s is not None else 0.0
        return OF_IDLE * idle_s if idle_s < QUIET_AFTER_S else QUIET_S


def telling_bytes(estimate: LinkEstimate, deciding_bps: Sequence[float]) -> int:
    """Returns the size that tells on which side of the deciding rate the link is, of those within the forecast; 0 without one.

    Of several it is the next one above the estimate: a link that became slower shows in the questions.
    """
    rates_bps = [uplink_bps for _, uplink_bps, _ in estimate.forecast]
    slow_bps = min([estimate.uplink_bps / (1 + estimate.spread), *rates_bps])
    fast_bps = max([estimate.uplink_bps * (1 + estimate.spread), *rates_bps])
    if estimate.at_least:
        fast_bps = MOST_PROBED_BPS
    possible = [bps for bps in deciding_bps if slow_bps < bps < fast_bps]
    if not possible:
        return 0
    above = [bps for bps in possible if bps >= estimate.level_bps]
    wanted = (min(above) if above else max(possible)) * TELLING_S / 8
    return int(min(max(wanted, MIN_PROBE_BYTES), MAX_PROBE_BYTES))
