"""Estimates what a request costs the device in joules: computing, sending, waiting.

Constants are those of one named device class and can all be set; they rank plans, they do not replace a power meter.
"""

from __future__ import annotations

from dataclasses import dataclass

from splitvlm.planning.costs import CostLine


@dataclass(frozen=True, slots=True)
class EnergyModel:
    """Watts of a device in its three states, and joules of each bit sent.

    Computing and waiting: a Raspberry Pi 4B, 6.4 W with all cores busy and 2.7 W idle (the power table of the Raspberry
    Pi Dramble project). The radio comes on top: LTE uplink, 1.288 W and 0.438 W for each Mbit/s (Huang et al.,
    "A Close Examination of Performance and Power Characteristics of 4G LTE Networks", MobiSys 2012, table 4).
    """

    compute_w: float = 6.4
    transmit_w: float = 2.7 + 1.288  # while sending, the processor waits
    wait_w: float = 2.7
    transmit_j_per_bit: float = 0.438e-6

    def joules(self, compute_s: float, transmit_s: float, wait_s: float, bits: float = 0.0) -> float:
        """Returns the joules of so many seconds in each state, and so many bits sent."""
        return (
            self.compute_w * compute_s
            + self.transmit_w * transmit_s
            + self.wait_w * wait_s
            + self.transmit_j_per_bit * bits
        )

    def request_j(
        self,
        line: CostLine,
        uplink_bps: float,
        rtt_s: float,
        n_tokens: int,
        *,
        hedged_with: CostLine | None = None,
    ) -> float:
        """Joules of one request. With a hedge the device computes until the first of the two is done."""
        latency_s = line.latency_s(uplink_bps, rtt_s, n_tokens)
        bits = line.bits_of(n_tokens)
        compute_s = line.device_s + line.encode_s + (n_tokens * line.token_s if line.local else 0.0)
        if hedged_with is not None:
            compute_s = min(latency_s, hedged_with.latency_s(uplink_bps, rtt_s, n_tokens))
            bits = min(bits, int(compute_s * uplink_bps))  # an answer that is there stops the sending
            return self.joules(compute_s, 0.0, 0.0, bits) + (self.transmit_w - self.wait_w) * bits / uplink_bps
        transmit_s = bits / uplink_bps
        return self.joules(compute_s, transmit_s, max(0.0, latency_s - compute_s - transmit_s), bits)
