"""Measures a node's own part: seconds of every stage, cost of every codec level, bytes on drawn pictures.

A measurement is a generator of steps, each a request or an encoding, that yields how many seconds to pause before the next
and returns the profile: a node that starts runs them in a row (`measured`), one that serves, between its requests
(cached_profiles.py). One warm-up, then medians over a few pictures, each after a pause. Stage times come from one
request through the deepest (device) or shallowest (cloud) cut, added up below or above each other cut, so that a model of 40
cuts is measured as quickly as one of 4. A codec's cost is measured at the first, middle and last cut of each kind and borrowed
from the nearest of those by the others.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, TypeVar

from PIL import Image

from splitvlm.bundle import Bundle
from splitvlm.bundle.leaks import leaks_of
from splitvlm.codec.codec import Codec
from splitvlm.domain import DEVICE, FULL, IMAGE, Cut, CutKind
from splitvlm.local_model import LocalBoundary, decode
from splitvlm.model.boundary import to_arrays
from splitvlm.model.loading import load_device
from splitvlm.model.parts import CloudPart, DevicePart
from splitvlm.model.prompt import Prompt
from splitvlm.model.upper_run import UpperRun
from splitvlm.planning.costs import CloudProfile, DeviceProfile
from splitvlm.scenes.samples import samples
from splitvlm.settings import ModelChoice
from splitvlm.variants.folder import Variant, memory_of

PICTURES = 3
PAUSE_S = 0.1  # before a request: questions come one by one, to caches that are cold by then (a fifth slower, measured)
STEPS = 3  # decoding steps of each request
Asked = tuple[Image.Image, str]
Stages = dict[str, float]
Payloads = dict[tuple[Cut, str], list[bytes]]
T = TypeVar("T")
Steps = Generator[float, None, T]
"""Steps of a measurement: yields the seconds to pause before the next one, returns what was measured."""


def measured(steps: Steps[T]) -> T:
    """Takes all steps of a measurement in a row."""
    while True:
        try:
            time.sleep(next(steps))
        except StopIteration as end:
            result: T = end.value
            return result


def profile_device(
    part: DevicePart, cuts: tuple[Cut, ...], bundle: Bundle, variant: Variant | None = None
) -> DeviceProfile:
    """Measures `cuts` on this device, now, and returns the profile."""
    return measured(device_steps(part, cuts, bundle, variant))


def device_steps(
    part: DevicePart, cuts: tuple[Cut, ...], bundle: Bundle, variant: Variant | None = None
) -> Steps[DeviceProfile]:
    """Returns steps that give the profile of `cuts` on this device, whose part has the form of `variant`."""
    codec = variant.codec(bundle) if variant else bundle.codec
    leaks = variant.leaks(bundle) if variant else bundle.leaks
    asked = list(samples(PICTURES, part.spec.name))
    prefill, step = yield from _device_stages(part, max(cuts, key=lambda cut: cut.depth), asked)
    seconds, payloads, token_bytes = yield from _encoding(part, cuts, codec, asked)
    near = {cut: _nearest(cut, cuts, codec) for cut in cuts}
    levels = [(cut, level) for cut in cuts if cut != DEVICE for level in codec.levels(cut)]
    profile = DeviceProfile(
        cuts={cut: _below(prefill, cut) for cut in cuts},
        coding={
            (cut, level): (seconds[near[cut], level], _median_size(payloads[near[cut], level])) for cut, level in levels
        },
        token_s={cut: _below(step, cut) for cut in cuts if cut.kind in (CutKind.LM, CutKind.DEVICE)},
        memory_bytes={cut: memory_of(variant, part.spec, cut) for cut in cuts},
        token_bytes={key: token_bytes[near[key[0]], key[1]] for key in levels if key[0].kind is CutKind.LM},
        variant=variant.name if variant else FULL,
    )
    return profile.with_leaks(leaks_of(profile.plans, leaks))


def profile_cloud(part: CloudPart, cuts: tuple[Cut, ...], codec: Codec, model: ModelChoice) -> CloudProfile:
    """Measures `cuts` on this cloud node and returns the profile.

    Loads the lower part for a moment, for boundaries to measure with.
    """
    asked = list(samples(PICTURES, part.spec.name))
    deepest = max(cuts, key=lambda cut: cut.depth)
    device = load_device(model.name, [deepest], device=model.device, dtype=model.dtype)
    prefill, step = measured(_cloud_stages(part, device, min(cuts, key=lambda cut: cut.depth), asked))
    _, payloads, _ = measured(_encoding(device, cuts, codec, asked[:1]))
    decoding = {key: _median_seconds(partial(decode, codec, key[0], data[0])) for key, data in payloads.items()}
    near = {cut: _nearest(cut, cuts, codec) for cut in cuts}
    return CloudProfile(
        cuts={cut: _above(prefill, cut) for cut in cuts},
        coding={(cut, level): decoding[near[cut], level] for cut in cuts for level in codec.levels(cut)},
        token_s={cut: _above(step, cut) for cut in cuts},
    )


def cloud_stage_steps(part: CloudPart, known: CloudProfile) -> Steps[CloudProfile]:
    """Returns steps that give a profile whose stages are measured anew, by pictures, which need no lower part."""
    prefill, step = yield from _cloud_stages(part, None, IMAGE, list(samples(PICTURES, part.spec.name)))
    return replace(
        known,
        cuts={cut: _above(prefill, cut) for cut in known.cuts},
        token_s={cut: _above(step, cut) for cut in known.token_s},
    )


def _device_stages(part: DevicePart, deepest: Cut, asked: list[Asked]) -> Steps[tuple[Stages, Stages]]:
    if deepest == IMAGE:
        return {}, {}

    def run(request: Asked) -> Iterator[None]:
        if deepest == DEVICE:
            tokens = part.generate(Prompt.about(*request), STEPS + 1)
            for _ in tokens:
                yield
            return
        lower = part.lower(Prompt.about(*request), deepest)
        yield
        if deepest.kind is CutKind.LM:
            for token_id in range(STEPS):
                lower.step(token_id)
                yield

    return (yield from _stages(part, run, asked))


def _cloud_stages(
    part: CloudPart, device: DevicePart | None, shallowest: Cut, asked: list[Asked]
) -> Steps[tuple[Stages, Stages]]:
    def run(request: Asked) -> Iterator[None]:
        upper, step = _upper(part, device, shallowest, request)
        upper.first()
        yield
        while not upper.finished:
            upper.next(step() if step else None)
            yield

    return (yield from _stages(part, run, asked))


def _upper(
    part: CloudPart, device: DevicePart | None, cut: Cut, request: Asked
) -> tuple[UpperRun, Callable[[], Any] | None]:
    if cut == IMAGE:
        return part.upper_from_prompt(Prompt.about(part.picture(request[0]), request[1]), STEPS + 1), None
    assert device is not None, "a boundary needs the lower part"
    lower = device.lower(Prompt.about(*request), cut)
    step = (lambda: lower.step(0)) if cut.kind is CutKind.LM else None
    return part.upper(cut, lower.boundary, STEPS + 1), step


def _stages(
    part: DevicePart | CloudPart, run: Callable[[Asked], Iterator[None]], asked: list[Asked]
) -> Steps[tuple[Stages, Stages]]:
    """Returns medians of the stages' seconds: in the prefill, and in a decoding step."""
    prefills: defaultdict[str, list[float]] = defaultdict(list)
    steps: defaultdict[str, list[float]] = defaultdict(list)
    for number, request in enumerate((asked[0], *asked)):
        yield PAUSE_S
        with _listening(part) as heard:
            for phase, _ in enumerate(run(request)):
                if number:  # the first request warms up
                    for stage, seconds in heard.items():
                        (steps if phase else prefills)[stage].append(seconds)
                heard.clear()
    return ({name: median(s) for name, s in prefills.items()}, {name: median(s) for name, s in steps.items()})


@contextmanager
def _listening(part: DevicePart | CloudPart) -> Iterator[Stages]:
    heard: Stages = defaultdict(float)

    def hear(stage: str, seconds: float) -> None:
        heard[stage] += seconds

    part.on_stage = hear
    try:
        yield heard
    finally:
        part.on_stage = None


def _below(stages: Stages, cut: Cut) -> float:
    """Returns seconds of the stages that the device runs at `cut`."""
    return sum(seconds for stage, seconds in stages.items() if _on_device(stage, cut))


def _above(stages: Stages, cut: Cut) -> float:
    return sum(seconds for stage, seconds in stages.items() if not _on_device(stage, cut) or stage == "embed")


def _on_device(stage: str, cut: Cut) -> bool:
    """Tells whether a stage of the clock (splitvlm.model.stage_clock) is below the cut."""
    kind, _, number = stage.partition(":")
    layer = int(number or 0)
    match kind:
        case "prepare" | "patches":
            return cut != IMAGE
        case "vision":
            return cut.kind is not CutKind.IMAGE and (cut.kind is not CutKind.VISION or layer <= cut.layers)
        case "connector":
            return cut.kind in (CutKind.TOKENS, CutKind.LM, CutKind.DEVICE)
        case "embed":
            return cut.kind in (CutKind.LM, CutKind.DEVICE)
        case "lm":
            return cut == DEVICE or (cut.kind is CutKind.LM and layer <= cut.layers)
        case _:
            return cut == DEVICE


def _encoding(
    part: DevicePart, cuts: tuple[Cut, ...], codec: Codec, asked: list[Asked]
) -> Steps[tuple[dict[tuple[Cut, str], float], Payloads, dict[tuple[Cut, str], int]]]:
    """Measures the representative cuts: median seconds of encoding, payloads, bytes of a decoding step."""
    payloads: Payloads = defaultdict(list)
    seconds: defaultdict[tuple[Cut, str], list[float]] = defaultdict(list)
    token_bytes: dict[tuple[Cut, str], int] = {}
    for cut in sorted({_nearest(cut, cuts, codec) for cut in cuts if cut != DEVICE}, key=lambda cut: cut.depth):
        for request in asked:
            yield 0.0
            boundary = LocalBoundary(part, codec, Prompt.about(*request), cut)
            for level in codec.levels(cut):
                yield PAUSE_S if cut == IMAGE else 0.0
                started_s = time.perf_counter()
                data = boundary.encode(level)
                seconds[cut, level].append(time.perf_counter() - started_s)
                payloads[cut, level].append(data)
            if cut.kind is CutKind.LM:
                step = to_arrays(boundary.step(0))
                token_bytes |= {(cut, level): len(codec.encode(cut, step, level)) for level in codec.levels(cut)}
    return {key: median(values) for key, values in seconds.items()}, payloads, token_bytes


def _nearest(cut: Cut, cuts: tuple[Cut, ...], codec: Codec) -> Cut:
    """Returns the representative of a cut among the first, middle and last of its kind that have its levels."""
    kind = [other for other in cuts if other.kind is cut.kind and codec.levels(other) == codec.levels(cut)]
    few = [kind[0], kind[len(kind) // 2], kind[-1]]
    return min(few, key=lambda other: abs(other.layers - cut.layers))


def _median_seconds(job: Callable[[], object]) -> float:
    times = []
    for _ in range(PICTURES):
        started_s = time.perf_counter()
        job()
        times.append(time.perf_counter() - started_s)
    return median(times)


def _median_size(payloads: list[bytes]) -> int:
    return int(median(len(data) for data in payloads))
