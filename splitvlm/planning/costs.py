"""The cost line of a plan, and the measured profiles that it is made from.

    latency(B, R) = device_s + encode_s + 8 * bytes / B + trips * R + decode_s + queue_s + cloud_s + n_tokens * token_s

with B the uplink rate (bit/s) and R the round-trip time (s). A cut inside the language model pays a round trip and some
bytes for each token besides. It is the model of Neurosurgeon (ASPLOS 2017) with codec, queue and round trips put in:
what overlaps in a running system (sending while encoding) is added up here, so the line is an upper estimate.

`n_tokens` counts decoding steps. Prefill gives the first token; an answer of n tokens and its end token takes n steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from splitvlm.domain import DEVICE, FULL, Cut, Plan
from splitvlm.planning.kinds import NO_LOSS, AccuracyDrop, KindDrop
from splitvlm.planning.numbers import number

Coding = tuple[Cut, str]
"""A cut and a codec level, of the variant that the profile is of."""


@dataclass(frozen=True, slots=True)
class CostLine:
    """Holds what one plan costs. Everything that depends on the link is a coefficient: bytes, trips.

    Accuracy drop, worst kind and leak are None where nobody measured them: unknown, which is not 0.
    """

    plan: Plan
    device_s: float
    encode_s: float
    payload_bytes: int
    decode_s: float
    queue_s: float
    cloud_s: float
    token_s: float  # device and cloud together, for each decoding step
    trips: int
    trips_per_token: int
    device_memory_bytes: int
    accuracy_drop: float | None  # share of answers lost against the unsplit model, 0.01 is one point
    token_bytes: int = 0  # uplink bytes of each decoding step, for lm:k
    cloud: str = ""  # the cloud node's name; empty where there is one only
    cloud_rtt_s: float = 0.0  # its distance beyond the access link, which every trip pays besides
    leak: float | None = None  # of the picture to whoever reads what crosses: 0 is a blank picture, 1 the picture
    worst_kind: KindDrop | None = None  # the kind of question that loses most

    @property
    def key(self) -> tuple[Plan, str]:
        """Returns what tells lines of one table apart."""
        return self.plan, self.cloud

    @property
    def local(self) -> bool:
        """Tells whether the device answers alone."""
        return self.plan.cut == DEVICE

    def latency_s(self, uplink_bps: float, rtt_s: float, n_tokens: int) -> float:
        """Returns the seconds from the question to the last token."""
        trips_s = self.trips_of(n_tokens) * (rtt_s + self.cloud_rtt_s)
        return self.fixed_s + self.bits_of(n_tokens) / uplink_bps + trips_s + n_tokens * self.token_s

    def bits_of(self, n_tokens: int) -> int:
        """Returns the bits that cross the uplink for an answer of so many decoding steps."""
        return 8 * (self.payload_bytes + n_tokens * self.token_bytes)

    def trips_of(self, n_tokens: int) -> int:
        """Returns the round trips of such an answer."""
        return self.trips + n_tokens * self.trips_per_token

    def first_token_s(self, uplink_bps: float, rtt_s: float) -> float:
        """Returns the seconds from the question to the first token."""
        return self.latency_s(uplink_bps, rtt_s, 0)

    @property
    def fixed_s(self) -> float:
        """Returns the seconds that neither the link nor the answer's length changes."""
        return self.device_s + self.encode_s + self.decode_s + self.queue_s + self.cloud_s


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """Holds what the device measured of one variant of its part of the model."""

    cuts: Mapping[Cut, float]  # seconds on the device until the boundary is there, or the first token for `device`
    coding: Mapping[Coding, tuple[float, int]]  # seconds to encode, payload bytes
    token_s: Mapping[Cut, float]  # device seconds of a decoding step: lm:k and device
    memory_bytes: Mapping[Cut, int]
    token_bytes: Mapping[Coding, int] = field(default_factory=dict)  # uplink bytes of a decoding step: lm:k
    leak: Mapping[Coding, float] = field(default_factory=dict)  # what is not in it is unknown
    variant: str = FULL

    @property
    def plans(self) -> tuple[Plan, ...]:
        """Returns the plans that the device measured its part of."""
        alone = [Plan(DEVICE, "none", self.variant)] if DEVICE in self.cuts else []
        return (*alone, *(Plan(cut, level, self.variant) for cut, level in self.coding))

    def with_leaks(self, leaks: Mapping[Plan, float]) -> DeviceProfile:
        """Returns the profile with these leaks of its plans."""
        known = [plan for plan in self.plans if plan in leaks and plan.cut != DEVICE]
        return replace(self, leak={(plan.cut, plan.level): leaks[plan] for plan in known})

    def __post_init__(self) -> None:
        _check("device", "cuts", self.cuts.values())
        _check("device", "coding", (value for pair in self.coding.values() for value in pair))
        _check("device", "token_s", self.token_s.values())
        _check("device", "memory_bytes", self.memory_bytes.values())
        _check("device", "token_bytes", self.token_bytes.values())
        _check("device", "leak", self.leak.values(), most=1.0)


@dataclass(frozen=True, slots=True)
class CloudProfile:
    """Holds what a cloud node measured of its part of the model.

    It goes on from what crosses, whichever form of the device's part made it: its costs are the same for all variants that it
    fits, and it serves no other.
    """

    cuts: Mapping[Cut, float]  # seconds from the decoded boundary to the first token
    coding: Mapping[Coding, float]  # seconds to decode
    token_s: Mapping[Cut, float]  # cloud seconds of a decoding step
    queue_s: float = 0.0
    variants: frozenset[str] = frozenset({FULL})

    def __post_init__(self) -> None:
        _check("cloud", "cuts", self.cuts.values())
        _check("cloud", "coding", self.coding.values())
        _check("cloud", "token_s", self.token_s.values())
        _check("cloud", "queue_s", (self.queue_s,))


_NOTHING_MEASURED: Mapping[Plan, AccuracyDrop] = {}


def cost_lines(
    device: DeviceProfile, cloud: CloudProfile | None, accuracy: Mapping[Plan, AccuracyDrop] = _NOTHING_MEASURED
) -> tuple[CostLine, ...]:
    """Returns a line for each plan that both sides measured, and for `device` where the device can hold the whole model.

    `accuracy` gives the drop of plans by their variant, too. A plan that is not in it is unknown, unless it is exact.
    """
    lines = [_local(device, accuracy)] if DEVICE in device.cuts else []
    if cloud is not None and device.variant in cloud.variants:
        lines += _remote(device, cloud, accuracy)
    return tuple(lines)


def drop_of(plan: Plan, accuracy: Mapping[Plan, AccuracyDrop]) -> AccuracyDrop | None:
    """Returns what is known of a plan's answers; None where nobody measured it."""
    return NO_LOSS if plan.is_exact else accuracy.get(plan)


def _local(device: DeviceProfile, accuracy: Mapping[Plan, AccuracyDrop]) -> CostLine:
    plan = Plan(DEVICE, "none", device.variant)
    drop = drop_of(plan, accuracy)
    return CostLine(
        plan=plan,
        device_s=device.cuts[DEVICE],
        encode_s=0.0,
        payload_bytes=0,
        decode_s=0.0,
        queue_s=0.0,
        cloud_s=0.0,
        token_s=device.token_s.get(DEVICE, 0.0),
        trips=0,
        trips_per_token=0,
        device_memory_bytes=device.memory_bytes.get(DEVICE, 0),
        accuracy_drop=drop.mean if drop else None,
        worst_kind=drop.worst_kind if drop else None,
        leak=0.0,  # nothing crosses
    )


def _remote(device: DeviceProfile, cloud: CloudProfile, accuracy: Mapping[Plan, AccuracyDrop]) -> Iterator[CostLine]:
    for (cut, level), (encode_s, payload_bytes) in device.coding.items():
        if cut not in device.cuts or cut not in cloud.cuts or (cut, level) not in cloud.coding:
            continue
        plan = Plan(cut, level, device.variant)
        drop = drop_of(plan, accuracy)
        yield CostLine(
            plan=plan,
            device_s=device.cuts[cut],
            encode_s=encode_s,
            payload_bytes=payload_bytes,
            decode_s=cloud.coding[cut, level],
            queue_s=cloud.queue_s,
            cloud_s=cloud.cuts[cut],
            token_s=device.token_s.get(cut, 0.0) + cloud.token_s.get(cut, 0.0),
            trips=1,
            trips_per_token=cut.trips_per_token,
            device_memory_bytes=device.memory_bytes.get(cut, 0),
            accuracy_drop=drop.mean if drop else None,
            worst_kind=drop.worst_kind if drop else None,
            token_bytes=device.token_bytes.get((cut, level), 0),
            leak=device.leak.get((cut, level)),
        )


def nearest_drops(plans: Iterable[Plan], measured: Mapping[Plan, AccuracyDrop]) -> dict[Plan, AccuracyDrop]:
    """Returns a drop for each plan: as measured, or that of the nearest measured cut of its kind at its level and variant.

    A plan without such a cut is left out: its drop is unknown.
    """
    drops = {}
    for plan in plans:
        near = [
            other
            for other in measured
            if (other.cut.kind, other.level, other.variant) == (plan.cut.kind, plan.level, plan.variant)
        ]
        if near:
            drops[plan] = measured[min(near, key=lambda other: abs(other.cut.layers - plan.cut.layers))]
    return drops


def _check(side: str, name: str, numbers: Iterable[float], most: float = math.inf) -> None:
    """Checks figures of peers: a NaN or a negative time would make its plan win for ever."""
    for value in numbers:
        number(value, f"One of the {side} profile's {name}", most)
