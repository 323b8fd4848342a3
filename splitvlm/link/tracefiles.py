"""Reads traces: from files that others recorded, and from short texts. Everything is checked here, with file and line.

    constant:2mbit                one rate for ever; units bit, kbit, mbit, gbit as in tc(8)
    step:5mbit@10,100kbit@5       each rate for so many seconds, then from the start
    outage:2mbit@20,5             20 s at the rate, 5 s of nothing, then from the start
    synthetic:walk                one of our own, see synthesis.py
    FILE                          Mahimahi or CSV, by content

Mahimahi (Netravali et al., ATC 2015): each line is a millisecond at which one packet of 1500 bytes may cross; a replay
starts over at the last one. CSV: a header `seconds,uplink_bps[,downlink_bps][,rtt_s]`, each row holds until the next,
and the last one for as long as the row before it (a single row: 1 s).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from importlib import resources
from itertools import pairwise
from pathlib import Path

from splitvlm.errors import UsageError
from splitvlm.files.text import read_text
from splitvlm.link.traces import LinkTrace, Trace

PACKET_BYTES = 1500
MAX_FILE_BYTES = 32 * 1024 * 1024  # days of LTE in Mahimahi's format
MAX_SECONDS = 1e7
MAX_BPS = 1e12
LEAST_SPAN_S = 0.001
LEAST_MEAN_BPS = 1.0  # a link that carries less is dead: a packet takes hours
COLUMNS = ("seconds", "uplink_bps", "downlink_bps", "rtt_s")
_UNITS = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_RATE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(bit|kbit|mbit|gbit)?")
_ADVICE = "A trace is constant:RATE, step:RATE@SECONDS,..., outage:RATE@SECONDS,SECONDS, synthetic:NAME or a file."


def load(text: str) -> LinkTrace:
    """Returns a trace from its text or file name. Raises UsageError, naming file and line."""
    kind, colon, rest = text.partition(":")
    maker = _MAKERS.get(kind) if colon else None
    if maker is not None:
        return maker(rest, text)
    return parse(read_text(Path(text), "trace", advice=_ADVICE, most=MAX_FILE_BYTES), source=text)


def names_a_file(text: str) -> bool:
    """Tells whether a trace's text is a file's name, not one of the short texts."""
    kind, colon, _ = text.partition(":")
    return not (colon and kind in _MAKERS)


def load_living(text: str) -> LinkTrace:
    """Loads a trace whose uplink carries something: on a dead one no transfer ever ends. Raises UsageError."""
    link = load(text)
    if link.up.mean_bps < LEAST_MEAN_BPS:
        raise UsageError(
            f"The link {text} is dead throughout: its uplink carries nothing, so that no plan with a cloud ever answers.",
            advice="Take a trace that carries something; outage:RATE@SECONDS,SECONDS makes one with outages.",
        )
    return link


def parse(content: str, *, source: str) -> LinkTrace:
    """Returns a trace from a file's content. `source` is named in errors."""
    lines = content.split("\n")
    if not any(line.strip() for line in lines):
        raise UsageError(f"{source} is empty.", advice="A trace has at least one line.")
    first = next(line for line in lines if line.strip())
    return _parse_csv(lines, source) if "," in first or "seconds" in first else _parse_mahimahi(lines, source)


def parse_rate(text: str) -> float:
    """Returns the bit/s of `2mbit`, `500kbit` or a plain number. Raises UsageError."""
    match = _RATE.fullmatch(text.strip().lower())
    if match is None:
        raise UsageError(f"'{text}' is not a rate.", advice="A rate is like 500kbit, 2.5mbit or 1000000.")
    bps = float(match[1]) * _UNITS[match[2] or "bit"]
    if bps > MAX_BPS:
        raise UsageError(f"The rate {text} is {bps:g} bit/s, but must be from 0 to {MAX_BPS:g}.")
    return bps


def synthetic_names() -> tuple[str, ...]:
    """Returns the names for `synthetic:NAME`."""
    folder = resources.files("splitvlm.link") / "synthetic"
    return tuple(sorted(item.name.removesuffix(".csv") for item in folder.iterdir() if item.name.endswith(".csv")))


def _constant(rest: str, text: str) -> LinkTrace:
    return LinkTrace(Trace.of_rates(text, [(1.0, parse_rate(rest))]))


def _step(rest: str, text: str) -> LinkTrace:
    return LinkTrace(Trace.of_rates(text, [_span(part, text) for part in rest.split(",")]))


def _outage(rest: str, text: str) -> LinkTrace:
    span, comma, silence = rest.partition(",")
    if not comma:
        raise UsageError(f"'{text}' tells no length of the outage.", advice=_ADVICE)
    return LinkTrace(Trace.of_rates(text, [_span(span, text), (_seconds(silence, text), 0.0)]))


def _synthetic(rest: str, text: str) -> LinkTrace:
    if rest not in synthetic_names():
        raise UsageError(f"There is no trace '{text}'.", advice=f"Known names: {', '.join(synthetic_names())}.")
    content = (resources.files("splitvlm.link") / "synthetic" / f"{rest}.csv").read_text("utf-8")
    return parse(content, source=text)


_MAKERS: dict[str, Callable[[str, str], LinkTrace]] = {
    "constant": _constant,
    "step": _step,
    "outage": _outage,
    "synthetic": _synthetic,
}


def _span(part: str, text: str) -> tuple[float, float]:
    rate, at, seconds = part.partition("@")
    if not at:
        raise UsageError(f"'{part}' in '{text}' tells no seconds.", advice=_ADVICE)
    return _seconds(seconds, text), parse_rate(rate)


def _seconds(text: str, where: str) -> float:
    seconds = _number(text, where, "a number of seconds", MAX_SECONDS)
    if seconds < LEAST_SPAN_S:
        raise UsageError(f"{where}: a span must last at least a millisecond, not {text}.")
    return seconds


def _parse_mahimahi(lines: Iterable[str], source: str) -> LinkTrace:
    """Reads Mahimahi's lines: a packet at millisecond t crosses within (t - 1, t]; those at 0 within the first one."""
    packets: dict[int, int] = {}
    last_ms = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not re.fullmatch(r"\s*[0-9]{1,10}\s*", line, re.ASCII):
            raise UsageError(f"{source}:{number}: '{_short(line)}' is not a millisecond (a whole number from 0).")
        at_ms = int(line)
        if at_ms < last_ms:
            raise UsageError(f"{source}:{number}: {at_ms} stands after {last_ms}.", advice="The lines must be sorted.")
        last_ms = at_ms
        packets[max(at_ms, 1)] = packets.get(max(at_ms, 1), 0) + 1
    if last_ms == 0:
        raise UsageError(f"{source}: the trace ends at millisecond 0, so that it could not be replayed.")
    return LinkTrace(_of_packets(source, packets))


def _of_packets(source: str, packets: dict[int, int]) -> Trace:
    knots_s, bytes_at, carried, last_ms = [0.0], [0.0], 0, 0
    for at_ms, count in packets.items():
        if at_ms - 1 > last_ms:  # a gap: flat until a millisecond before
            knots_s.append((at_ms - 1) / 1000)
            bytes_at.append(carried)
        carried += count * PACKET_BYTES
        knots_s.append(at_ms / 1000)
        bytes_at.append(carried)
        last_ms = at_ms
    return Trace(source, tuple(knots_s), tuple(bytes_at))


def _parse_csv(lines: list[str], source: str) -> LinkTrace:
    rows = [(number, line.split(",")) for number, line in enumerate(lines, 1) if line.strip()]
    head_line, header = rows[0][0], tuple(cell.strip() for cell in rows[0][1])
    if header[:2] != COLUMNS[:2] or len(set(header)) < len(header) or not set(header) <= set(COLUMNS):
        wanted = "seconds,uplink_bps[,downlink_bps][,rtt_s]"
        raise UsageError(f"{source}:{head_line}: the header is '{_short(','.join(header))}', but must be {wanted}.")
    if len(rows) == 1:
        raise UsageError(f"{source} has a header, but no rows.")
    table = [_csv_row(row, header, f"{source}:{number}") for number, row in rows[1:]]
    _check_times([row["seconds"] for row in table], [f"{source}:{number}" for number, _ in rows[1:]])
    return _of_table(table, header, source)


def _csv_row(row: list[str], header: tuple[str, ...], where: str) -> dict[str, float]:
    if len(row) != len(header):
        raise UsageError(f"{where}: {len(row)} columns, but the header has {len(header)}.")
    largest = {"seconds": MAX_SECONDS, "rtt_s": 60.0}
    return {
        name: _number(cell, where, name, largest.get(name, MAX_BPS)) for name, cell in zip(header, row, strict=True)
    }


def _check_times(times_s: list[float], wheres: list[str]) -> None:
    if times_s[0] != 0:
        raise UsageError(f"{wheres[0]}: the first row is at {times_s[0]:g} s, but must be at 0.")
    for (before_s, after_s), where in zip(pairwise(times_s), wheres[1:], strict=True):
        if after_s <= before_s:
            raise UsageError(f"{where}: {after_s:g} s stands after {before_s:g} s.", advice="The rows must be sorted.")
        if after_s - before_s < 0.999 * LEAST_SPAN_S:  # written in decimals, read in binary
            raise UsageError(f"{where}: {after_s:g} s is less than a millisecond after the row before.")


def _of_table(table: list[dict[str, float]], header: tuple[str, ...], source: str) -> LinkTrace:
    times_s = [row["seconds"] for row in table]
    lengths_s = [after_s - before_s for before_s, after_s in pairwise(times_s)]
    lengths_s.append(lengths_s[-1] if lengths_s else 1.0)

    def direction(column: str) -> Trace:
        return Trace.of_rates(source, [(s, row[column]) for s, row in zip(lengths_s, table, strict=True)])

    return LinkTrace(
        up=direction("uplink_bps"),
        down=direction("downlink_bps") if "downlink_bps" in header else None,
        rtt_knots=tuple((row["seconds"], row["rtt_s"]) for row in table) if "rtt_s" in header else (),
    )


def _number(text: str, where: str, name: str, largest: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{where}: '{_short(text)}' is not {'a number for ' if name in COLUMNS else ''}{name}.")
    if not 0 <= number <= largest:
        raise UsageError(f"{where}: {name} is {number:g}, but must be from 0 to {largest:g}.")
    return number


def _short(text: str) -> str:
    return text.strip() if len(text) <= 40 else f"{text[:40]}..."
