"""Makes the synthetic traces: `python -m splitvlm.link.synthesis` writes them into synthetic/, byte for byte the same.

    constant   2 Mbit/s
    step       5 Mbit/s and 200 kbit/s, 15 s each
    outage     2 Mbit/s with 5 s of nothing in every 25
    walk       a random walk in the logarithm of the rate, 100 kbit/s to 10 Mbit/s
    fade       driving away and back: 5 Mbit/s down to 50 kbit/s and up again, with shadow fading
    far        the same at the edge of coverage: 1 Mbit/s down to 15 kbit/s
    city       a fast link with rare dips: 12 Mbit/s and little change, each minute or so a second or two of a thirtieth of it
    train      the same, moving: 8 Mbit/s that vary by half, dips of up to four seconds, some of them without a byte
    mall       the same, indoors: 4 Mbit/s that vary more than they dip

Rates of a walk are correlated over seconds and spread over a decade and more, as those of recorded cellular links are
(Winstein et al., NSDI 2013); they stand for no real place.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

SEED = 20_240_517
Row = tuple[float, float]  # seconds, uplink bit/s


def constant() -> Iterator[Row]:
    """Yields a link of 2 Mbit/s that never changes."""
    yield 0.0, 2e6


def step() -> Iterator[Row]:
    """Yields a link that drops from 5 Mbit/s to 200 kbit/s after 15 s."""
    yield 0.0, 5e6
    yield 15.0, 200e3  # the last row lasts as long as the one before


def outage() -> Iterator[Row]:
    """Yields a link of 2 Mbit/s that is dead from second 10 to second 15."""
    for second in range(25):
        yield float(second), 0.0 if 10 <= second < 15 else 2e6


def walk(seconds: int = 120, low_bps: float = 100e3, high_bps: float = 10e6) -> Iterator[Row]:
    """Walks in steps of a half second, 0.25 of a natural logarithm wide, reflected at both ends."""
    chance = random.Random(SEED)
    low, high = math.log(low_bps), math.log(high_bps)
    level = (low + high) / 2
    for half in range(2 * seconds):
        yield half / 2, math.exp(level)
        level += chance.gauss(0, 0.25)
        level = 2 * low - level if level < low else 2 * high - level if level > high else level


def fade(seconds: int = 60, low_bps: float = 50e3, high_bps: float = 5e6) -> Iterator[Row]:
    """Yields a cosine in the logarithm from high to low and back; shadowing of 0.2 with a memory of about 2 s on top."""
    chance = random.Random(SEED + 1)
    middle, swing = math.log(low_bps * high_bps) / 2, math.log(high_bps / low_bps) / 2
    shadow = 0.0
    for half in range(2 * seconds):
        level = middle + swing * math.cos(math.pi * half / seconds) + shadow
        yield half / 2, min(max(math.exp(level), low_bps), high_bps)
        shadow = 0.8 * shadow + chance.gauss(0, 0.2 * math.sqrt(1 - 0.8**2))


def far() -> Iterator[Row]:
    """Yields a slow link that fades between 15 kbit/s and 1 Mbit/s."""
    yield from fade(low_bps=15e3, high_bps=1e6)


def dips(
    seed: int,
    usual_bps: float,
    spread: float,
    every_s: float,
    most_s: float,
    depth: float,
    dead_share: float = 0.0,
    seconds: int = 240,
) -> Iterator[Row]:
    """Yields a rate around its usual one, with a memory of 2 s, and dips.

    `spread` is of the logarithm; a dip comes after `every_s` on average, lasts up to `most_s` and divides the rate by up to
    `depth`, and that share of them carries nothing.
    """
    chance = random.Random(SEED + seed)
    level, dip_until, divisor = 0.0, 0.0, 1.0
    next_s = chance.expovariate(1 / every_s)
    for half in range(2 * seconds):
        now_s = half / 2
        if now_s >= next_s:
            dip_until = now_s + chance.uniform(0.5, most_s)
            divisor = (
                math.inf if chance.random() < dead_share else math.exp(chance.uniform(math.log(4), math.log(depth)))
            )
            next_s = dip_until + chance.expovariate(1 / every_s)
        yield now_s, usual_bps * math.exp(level) / (divisor if now_s < dip_until else 1.0)
        level = 0.8 * level + chance.gauss(0, spread * math.sqrt(1 - 0.8**2))


def city() -> Iterator[Row]:
    """Yields a link of a median of 12 Mbit/s with a dip every 50 s on average."""
    yield from dips(2, 12e6, 0.2, 50.0, 2.0, 30.0)


def train() -> Iterator[Row]:
    """Yields a fast link with long dips, of which three in ten are dead, as in tunnels."""
    yield from dips(3, 30e6, 0.5, 60.0, 4.0, 100.0, dead_share=0.3)


def mall() -> Iterator[Row]:
    """Yields a link of a median of 20 Mbit/s with short dips every minute on average."""
    yield from dips(4, 20e6, 0.4, 60.0, 3.0, 30.0)


TRACES = {
    "constant": constant,
    "step": step,
    "outage": outage,
    "walk": walk,
    "fade": fade,
    "far": far,
    "city": city,
    "train": train,
    "mall": mall,
}


def render(rows: Iterator[Row]) -> str:
    """Returns CSV for tracefiles.py; whole bits a second."""
    return "seconds,uplink_bps\n" + "".join(f"{seconds:g},{bps:.0f}\n" for seconds, bps in rows)


def main() -> None:
    """Writes all synthetic traces as CSV files into the package's folder."""
    folder = Path(__file__).parent / "synthetic"
    folder.mkdir(exist_ok=True)
    for name, rows in TRACES.items():
        (folder / f"{name}.csv").write_text(render(rows()), "utf-8")


if __name__ == "__main__":
    main()
