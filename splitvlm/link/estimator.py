"""Estimates what the link can do from what it did. No clock and no socket inside: every method takes `now_s` (any origin).

Three times are kept apart, because their sum says nothing about the rate: the round trip (windowed minimum, as in BBR,
Cardwell et al. 2016), the delivery (bytes over the receiver's own span from first to last frame) and the server's work
(reported by the server). The rate is the harmonic mean of recent samples, and its error the worst recent one
(robustMPC, Yin et al., SIGCOMM 2015). What is predicted is the time of a transfer of a given size (Fugu, Yan et al.,
NSDI 2020). A transfer of a few hundred bytes is no sample as long as the rate lies within the bounds that it tells
(small_transfers.py); where it does not, the rate is what they say.

A policy that went local gets no more samples. So an old estimate grows towards the best rate of the last minutes, and
probing.py asks for probes. Rates are bit/s, times seconds, sizes bytes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from math import exp2
from typing import NamedTuple

from splitvlm.link.forecast import History, Point
from splitvlm.link.small_transfers import FELL_S, RESOLUTION_S, SmallTransfers

MOST_OF_RTT = 0.75  # may be an empty call's own bytes, at 8 kbit/s; more is another link than the first transfer's
RTT_WINDOW_S = 90.0  # for the minimum: a few of the round trips that are measured for themselves (probing.py)
PEAK_WINDOW_S = 600.0  # what the link could do within ten minutes is what it may do again
MAX_SAMPLES = 5  # robustMPC's history
MAX_ERROR = 2.0  # a rate over-estimated three times is as wrong as the conservative end should ever allow for
PRIOR_ERROR = 0.5  # nothing measured yet, or one sample only
MIN_ERROR = 0.1  # five lucky samples are no proof
FULL_WEIGHT_BYTES = 16_384  # beyond it, a transfer has left TCP's first window (10 segments, RFC 6928)
FULL_WEIGHT_S = 0.5  # and one that took so long tells as much, however small: a slow link shows in any transfer
HALF_LIFE_S = 2.0  # a cellular rate's memory: capacities of 1 s bins are correlated over a few seconds
STEP = 2.0  # two samples in a row so many times off, on one side, are another link, not noise
OUTAGE_S = 2.0  # a small transfer that took longer sat out an outage, unless the next one takes as long
FRESH_S = 3.0  # younger estimates are taken as they are
OPTIMISM_HALF_LIFE_S = 10.0  # an older one goes half the way (in log) to the best rate in such a time
TELLING_BYTES = 1_024  # fewer tell bounds
MAX_PROBE_BYTES = 4_096  # more tells little: a probe must not cost what a request costs
MOST_PROBED_BPS = 8 * MAX_PROBE_BYTES / RESOLUTION_S  # no probe can tell of more
PACKET_BYTES = 1_500  # arrives whole or not at all: a stall tells nothing of rates at which one would not be there yet
MIN_BPS, MAX_BPS = 1e3, 1e11


class LinkEstimate(NamedTuple):
    """Predicts the link. Its conservative end is `uplink_bps / (1 + spread)`."""

    uplink_bps: float
    rtt_s: float
    spread: float  # relative error of recent predictions: 0.2 is 20 %
    age_s: float  # since the last sample of the rate; infinite when there is none
    samples: int
    peak_bps: float = 0.0  # the best sample of PEAK_WINDOW_S
    forecast: tuple[Point, ...] = ()  # the next transfer as a distribution
    level_bps: float = 0.0  # of the last samples, however old; 0 without any
    at_least: bool = True  # the last transfer was too quick to tell more than a lower bound
    tail_bps: float = 0.0  # one transfer in twenty is slower; 0: not known

    def transfer_s(self, payload_bytes: float) -> float:
        """Returns seconds until the answer to so many bytes could be here: serialisation and a round trip."""
        return 8 * payload_bytes / self.uplink_bps + self.rtt_s

    def pessimistic(self) -> LinkEstimate:
        """Returns the conservative end of the spread, as an estimate without one."""
        slow = 1 + self.spread
        return LinkEstimate(self.uplink_bps / slow, self.rtt_s * slow, 0.0, self.age_s, self.samples)


_Sample = tuple[float, float, float]
"""When it came, its rate, and from 0 to 1 how much a transfer of its size can tell."""


class LinkEstimator:
    """Takes observations as they come and estimates whenever asked. One object a device and cloud node."""

    __slots__ = (
        "_at_least",
        "_call_bytes",
        "_errors",
        "_heard_s",
        "_held_s",
        "_history",
        "_level_bps",
        "_peaks",
        "_prior_bps",
        "_prior_rtt_s",
        "_rtts",
        "_samples",
        "_sat_out",
        "_small",
        "_spread",
        "_streak",
        "_told_s",
    )  # fmt: skip

    def __init__(self, *, prior_uplink_bps: float = 5e6, prior_rtt_s: float = 0.05) -> None:
        """Takes priors, which stand until something is measured. Optimism goes to the rate's where no better peak is known."""
        self._prior_bps = prior_uplink_bps
        self._prior_rtt_s = prior_rtt_s
        self._rtts: deque[tuple[float, float]] = deque()  # (at, rtt), rising in both: the minimum stands first
        self._samples: deque[_Sample] = deque(maxlen=MAX_SAMPLES)
        self._errors: deque[float] = deque(maxlen=MAX_SAMPLES)
        self._spread = PRIOR_ERROR  # the worst of them
        self._peaks: deque[tuple[float, float]] = deque()  # (at, rate), rates falling: the maximum stands first
        self._streak: tuple[int, int] = (0, 0)  # side of the last surprises (-1, 0, 1), and how many
        self._heard_s: float | None = None
        self._told_s = 0.0  # when something last told of the rate; counts once anything was heard
        self._history = History()
        self._level_bps = prior_uplink_bps  # of the samples
        self._at_least = True  # whether the last transfer was too quick to tell more than a lower bound
        self._small = SmallTransfers()
        self._call_bytes = 0  # of the round trips before the first sample
        self._held_s = -math.inf  # when the rate last lay within the bounds of a small transfer
        self._sat_out = False  # whether the last sample was an outage, waited for to its end

    def on_rtt(self, rtt_s: float, now_s: float, *, num_bytes: int = 0) -> None:
        """Notes a round trip, without the server's time, of an empty call that takes `num_bytes` on the wire."""
        if not 0 < rtt_s < math.inf:
            return
        if num_bytes and self._samples and self._rtts and (excess_s := rtt_s - self._rtts[0][1]) > 0:
            rtt_s -= min(8 * num_bytes / self._level_bps, excess_s)
        elif not self._samples:
            self._call_bytes = num_bytes
        while self._rtts and self._rtts[-1][1] >= rtt_s:
            self._rtts.pop()
        self._rtts.append((now_s, rtt_s))

    def on_transfer(
        self,
        payload_bytes: int,
        receive_span_s: float | None,
        elapsed_s: float,
        server_s: float,
        now_s: float,
        *,
        first_frame_bytes: int | None = None,
        probe: bool = False,
    ) -> None:
        """Notes a transfer that was answered. What a `probe` does not tell no other of its size would.

        `receive_span_s` is from the first to the last frame by the receiver's clock, None for a single frame;
        `first_frame_bytes` had already arrived when the span began, and are not of it; unless they are known, the span
        is no measure (of two frames it holds one), and the sender's clock counts. `elapsed_s` is from the first
        byte sent to the first byte of the answer by the sender's clock, and `server_s` the server's own part of that.
        """
        self._heard_s = now_s
        away_s = elapsed_s - server_s
        if payload_bytes <= 0 or not 0 < away_s < math.inf:
            return  # a server that says it took all of the time tells nothing of the link
        round_trip_s = away_s - (receive_span_s or 0.0)
        known_s = self._rtt_s(now_s, math.inf)
        if receive_span_s is not None or round_trip_s < known_s < math.inf:
            self.on_rtt(round_trip_s, now_s)  # at most: one that was held up in a queue must not stand for longer
        spanned = payload_bytes - first_frame_bytes if first_frame_bytes is not None else 0
        if receive_span_s is not None and receive_span_s >= RESOLUTION_S and spanned > 0:
            self._told_s = now_s
            self._at_least = False
            self._on_rate(8 * spanned / receive_span_s, spanned, now_s)
        elif not round_trip_s < known_s - RESOLUTION_S < math.inf:
            self._on_whole(payload_bytes, away_s, now_s)
        elif self._samples and (least_bps := 8 * payload_bytes / away_s) > self._level_bps:
            self._at_least = True  # the round trip was off: nothing but the whole time is sure
            self._on_rate(least_bps, payload_bytes, now_s)
        if probe:
            self._told_s = now_s

    def _rtt_s(self, now_s: float, otherwise_s: float) -> float:
        """Returns the least of the window, which ends now; the last one for as long as there is no other."""
        while len(self._rtts) > 1 and now_s - self._rtts[0][0] > RTT_WINDOW_S:
            self._rtts.popleft()
        return self._rtts[0][1] if self._rtts else otherwise_s

    def _on_whole(self, payload_bytes: int, away_s: float, now_s: float) -> None:
        """Learns from the sender's clock: what is left after the round trip is serialisation, if it can be told from noise."""
        rtt_s = self._rtt_s(now_s, 0.0)
        if self._rtts and not self._samples and payload_bytes > self._call_bytes:
            rtt_s = self._without_bytes(rtt_s, payload_bytes, away_s)
        serialisation_s = away_s - rtt_s
        if payload_bytes < TELLING_BYTES:
            if self._rtts:
                self._on_small(payload_bytes, serialisation_s, now_s)
            return
        readable = bool(self._rtts) and serialisation_s >= max(RESOLUTION_S, 0.05 * rtt_s)
        bound_bps = 8 * payload_bytes / max(serialisation_s, RESOLUTION_S)
        self._told_s = now_s
        self._at_least = not readable
        if readable or bound_bps > self._level_bps:
            self._on_rate(bound_bps, payload_bytes, now_s)
        elif self._samples:  # as quick as expected: the slow ones alone must not be the history
            self._history.add(self._level_bps, payload_bytes, now_s, (self._level_bps, self._spread))

    def _without_bytes(self, rtt_s: float, payload_bytes: int, away_s: float) -> float:
        """Returns the round trip without the time of its own bytes, which the first larger transfer tells."""
        bytes_s = (away_s - rtt_s) * self._call_bytes / (payload_bytes - self._call_bytes)
        if 0 < bytes_s < MOST_OF_RTT * rtt_s:
            at_s, rtt_s = self._rtts[0][0], rtt_s - bytes_s
            self._rtts = deque([(at_s, rtt_s)])
        return rtt_s

    def _on_small(self, num_bytes: int, excess_s: float, now_s: float) -> None:
        """Learns from a transfer that took `excess_s` longer than the round trip and tells bounds."""
        bounds = self._small.add(num_bytes, excess_s, self._level_bps, now_s)
        self._at_least = math.isinf(bounds.upper_bps)
        if not self._at_least or self._level_bps >= MOST_PROBED_BPS:
            self._told_s = now_s
        if self._samples and bounds.lower_bps <= self._level_bps <= bounds.upper_bps:
            if bounds.own_upper_bps < math.inf or STEP * bounds.lower_bps >= self._level_bps:
                self._held_s = now_s
            return
        below = self._at_least or self._level_bps < bounds.lower_bps
        bps = bounds.lower_bps if below else bounds.middle_bps
        if self._on_rate(bps, num_bytes, now_s):
            self._level_bps = bps  # of what is known by now: earlier samples do not count against it

    def _on_rate(self, bps: float, payload_bytes: float, now_s: float, *, over: bool = True) -> bool:
        """Notes a sample; with `over` the transfer ended, and with it an outage that it may have sat out: that is none."""
        bps = MIN_BPS if bps < MIN_BPS else MAX_BPS if bps > MAX_BPS else bps
        small = payload_bytes <= FULL_WEIGHT_BYTES
        outage = over and small and 8 * payload_bytes / bps > OUTAGE_S and bps * STEP < self._level_bps
        if outage and not self._sat_out and self._samples:
            self._sat_out = True
            self._history.add(bps, payload_bytes, now_s)
            return False
        self._sat_out = outage
        if self._samples:
            predicted = self._level_bps
            if bps * STEP < predicted and 8 * payload_bytes / bps >= FELL_S:
                self._forget_samples(kept=0)
            elif self._is_step(predicted, bps):
                predicted = self._samples[-1][1]
                self._forget_samples(kept=1)
            self._history.add(bps, payload_bytes, now_s, (predicted, self._spread))
            self._errors.append(min(abs(predicted - bps) / bps, MAX_ERROR))
            self._spread = max(MIN_ERROR, *self._errors)
        else:
            self._history.add(bps, payload_bytes, now_s)
        watched_s = 8 * payload_bytes / bps
        self._samples.append((now_s, bps, min(1.0, max(payload_bytes / FULL_WEIGHT_BYTES, watched_s / FULL_WEIGHT_S))))
        self._level_bps = _harmonic_mean_bps(self._samples)
        self._remember_peak(bps, now_s)
        return True

    def _remember_peak(self, bps: float, now_s: float) -> None:
        while self._peaks and self._peaks[-1][1] <= bps:
            self._peaks.pop()
        self._peaks.append((now_s, bps))
        while now_s - self._peaks[0][0] > PEAK_WINDOW_S:
            self._peaks.popleft()

    def _forget_samples(self, *, kept: int) -> None:
        """Drops all samples but the youngest, or all: the others are of another link."""
        while len(self._samples) > kept:
            self._samples.popleft()
        self._errors.clear()
        self._spread = PRIOR_ERROR
        self._streak = (0, 0)

    def _is_step(self, predicted: float, bps: float) -> bool:
        """Tells whether this is the second surprise in a row on one side: another link, and its past is no guide."""
        side = 1 if bps > STEP * predicted else -1 if bps * STEP < predicted else 0
        count = self._streak[1] + 1 if side and side == self._streak[0] else abs(side)
        self._streak = (side, count)
        return count == 2

    def estimate(self, now_s: float) -> LinkEstimate:
        """Returns the link as of now. Without a new sample the conservative end never falls."""
        rtt_s = self._rtt_s(now_s, self._prior_rtt_s)
        if not self._samples:
            return LinkEstimate(self._prior_bps, rtt_s, PRIOR_ERROR, math.inf, 0, self._prior_bps)
        age_s = max(0.0, now_s - max(self._samples[-1][0], self._held_s))
        spread = self._spread
        forecast = self._history.forecast(self._level_bps, spread, age_s)
        uplink_bps, peak_bps = self._aged_bps(age_s), max(self._prior_bps, self._peaks[0][1])
        return LinkEstimate(
            uplink_bps,
            rtt_s,
            spread,
            age_s,
            len(self._samples),
            peak_bps,
            forecast,
            self._level_bps,
            self._at_least,
            self._history.tail_bps(self._level_bps, spread),
        )

    def on_stall(self, sent_bytes: float, elapsed_s: float, now_s: float) -> None:
        """Notes a transfer that was given up: at most so many bytes crossed in so long, and a packet that has not arrived yet.

        Tells something if that was slow. Half a second without a byte means less than 24 kbit/s, not none.
        """
        if not RESOLUTION_S <= elapsed_s < math.inf or not 0 <= sent_bytes < math.inf:
            return
        bound_bps = 8 * (sent_bytes + PACKET_BYTES) / elapsed_s
        if bound_bps < self._level_bps:
            # Seconds without a byte weigh as much as a transfer of many: what counts is how long the link was watched.
            self._heard_s = self._told_s = now_s
            self._on_rate(bound_bps, max(sent_bytes, FULL_WEIGHT_BYTES * min(1.0, elapsed_s)), now_s, over=False)

    @property
    def heard_s(self) -> float | None:
        """Returns when the other side last answered; None before it did."""
        return self._heard_s

    @property
    def last_bps(self) -> float:
        """Returns the last reading; what stands for one where there is none."""
        return self._samples[-1][1] if self._samples else self._prior_bps

    @property
    def rtt_at_s(self) -> float:
        """Returns when a round trip was last measured."""
        return self._rtts[-1][0] if self._rtts else -math.inf

    @property
    def told_s(self) -> float:
        """Returns when something last told of the rate."""
        return self._told_s

    def _aged_bps(self, age_s: float) -> float:
        """Towards the best rate of the window before the last sample, in the logarithm, once the level is not fresh."""
        level = self._level_bps
        if age_s <= FRESH_S:
            return level
        hoped = max(level, self._prior_bps, self._peaks[0][1])
        left = exp2((FRESH_S - age_s) / OPTIMISM_HALF_LIFE_S)
        return hoped * math.pow(level / hoped, left)


def _harmonic_mean_bps(samples: Sequence[_Sample]) -> float:
    """Returns the harmonic mean of the rates, the younger and the larger weighing more."""
    last_s = samples[-1][0]  # not now: weights are relative, and must not underflow together
    total = spent = 0.0
    for at_s, bps, size in samples:
        weight = size * exp2((at_s - last_s) / HALF_LIFE_S) if at_s < last_s else size  # a clock may go back
        total += weight
        spent += weight / bps
    return total / spent
