"""What was learned about a model: codec levels, accuracy and leaks of plans. Each is a file, read and checked here.

    calibration.safetensors   the transforms and entropy models of the calibrated levels, by `splitvlm calibrate`
    accuracy.json             the accuracy drop of plans, by `splitvlm evaluate --plans`
    leak.json                 what plans leak, by `splitvlm leak --json`

A plan's leak is the share of questions that an attacker's reconstruction still answers, on a scale whose 0 is a blank picture
and whose 1 is the picture itself. The device reads its own file: how private a plan is must not be for a peer to say.
What was not measured is not in what the functions here return: it is unknown, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from splitvlm.codec.calibration_file import FILE as CALIBRATION_FILE
from splitvlm.codec.codec import Codec
from splitvlm.domain import Cut, CutKind, Plan
from splitvlm.errors import UsageError
from splitvlm.files.text import read_json
from splitvlm.model.loading import model_file, read_spec
from splitvlm.model.spec import ModelSpec
from splitvlm.planning.costs import Coding
from splitvlm.planning.kinds import AccuracyDrop, KindTally, worst_kind
from splitvlm.planning.numbers import number, whole

V = TypeVar("V")
ACCURACY_FILE = "accuracy.json"
LEAK_FILE = "leak.json"


def codec_of(model: str) -> Codec:
    """The model's codec, with its calibration where there is one. Raises UsageError."""
    codec = Codec.from_file(model_file(model, CALIBRATION_FILE))
    if codec.channels:
        _check_channels(codec, read_spec(model))
    return codec


def _check_channels(codec: Codec, spec: ModelSpec) -> None:
    for cut, channels in codec.channels.items():
        spec.check(cut)
        expected = spec.vision_hidden if cut.kind is CutKind.VISION else spec.lm_hidden
        if channels != expected:
            raise UsageError(
                f"{CALIBRATION_FILE} of {spec.name} is another model's: {channels} channels at {cut}, where it has {expected}.",
                advice="Make it again: `splitvlm calibrate MODEL`.",
            )


def read_accuracy(name: str) -> dict[Plan, AccuracyDrop]:
    """Returns the drops of the plans that were measured for this model.

    Raises UsageError for a file that `splitvlm evaluate` cannot have written.
    """
    return _read(name, ACCURACY_FILE, "accuracy", "evaluate MODEL --plans", _drops)


def _drops(report: Mapping[str, Any]) -> dict[Plan, AccuracyDrop]:
    return {Plan.parse(plan): _drop_of(plan, row) for plan, row in report["plans"].items()}


def _drop_of(plan: str, row: Mapping[str, Any]) -> AccuracyDrop:
    tallies = {
        kind: KindTally(**{name: whole(count, f"{plan}, {kind}: {name}") for name, count in counts.items()})
        for kind, counts in row.get("kinds", {}).items()
    }
    return AccuracyDrop(number(row["drop"], f"The drop of {plan}", most=1.0), worst_kind(tallies))


def read_leaks(name: str) -> dict[Plan, float]:
    """Returns the leaks of the plans that were measured for this model. A leak that is unknown counts as all of the picture.

    Raises UsageError for a file that `splitvlm leak` cannot have written.
    """
    return _read(name, LEAK_FILE, "leaks", "leak MODEL --json", scaled)


def _read(
    name: str, file_name: str, content: str, verb: str, parsed: Callable[[Mapping[str, Any]], dict[Plan, V]]
) -> dict[Plan, V]:
    """Reads a learned file of a model; empty where there is none. Raises UsageError where it does not hold `content`."""
    file = model_file(name, file_name)
    if file is None:
        return {}
    advice = f"Measure again: `splitvlm {verb}` writes it."
    report = read_json(file, content, advice=advice)
    try:
        return parsed(report)
    except UsageError as error:
        raise UsageError(f"{file} holds no {content}: {error.sentence}", advice=advice) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} holds no {content}: a part of it is missing.", advice=advice) from error


def scaled(report: Mapping[str, Any]) -> dict[Plan, float]:
    """From what `splitvlm leak` reports: shares above the blank picture's. Raises UsageError for what is no share."""
    floor = number(report["floor"], "The floor", most=1.0)
    if floor == 1.0:
        raise UsageError("The floor is 1: a blank picture answered every question, so nothing was measured.")
    leaks: dict[Plan, float] = {}
    for row in report["rows"]:
        plan = Plan(Cut.parse(str(row["cut"])), str(row["level"]))
        if plan in leaks:
            raise UsageError(f"{plan} stands twice.")
        answered = number(row["answered"], f"What {plan} answers", most=1.0)
        leaks[plan] = max(0.0, (answered - floor) / (1 - floor))
    return leaks


def leaks_of(codings: Iterable[Coding], measured: Mapping[Plan, float]) -> dict[Coding, float]:
    """The leak of each cut and level that was measured; what is missing is unknown, and counts as all where leaks are limited.

    What can be computed from what is sent leaks no more than it (data processing): so a lossless boundary leaks at least what
    was measured at its other levels and at deeper cuts.
    """
    found = {}
    for cut, level in codings:
        leak = measured.get(Plan(cut, level))
        if leak is not None and level == "lossless":
            leak = max(other for plan, other in measured.items() if plan.cut.depth >= cut.depth)
        if leak is not None:
            found[cut, level] = leak
    return found
