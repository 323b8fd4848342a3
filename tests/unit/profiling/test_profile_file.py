"""Profile files come back as they were written, by variant; what is wrong in one is named, and what is absent is unknown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.planning.costs import CloudProfile, DeviceProfile
from splitvlm.planning.kinds import AccuracyDrop, KindDrop
from splitvlm.planning.profiles import Profiles
from splitvlm.profiling.profile_file import profiles_to_message, read, write

LM = Cut.parse("lm:1")
JPEG = (IMAGE, "jpeg90")


def profiles() -> Profiles:
    device = DeviceProfile(
        cuts={IMAGE: 0.0, TOKENS: 0.5, LM: 0.6, DEVICE: 0.9},
        coding={JPEG: (0.1, 500), (TOKENS, "int8"): (0.2, 900), (LM, "int8"): (0.2, 950)},
        token_s={LM: 0.01}, memory_bytes={IMAGE: 1}, token_bytes={(LM, "int8"): 30}, leak={JPEG: 0.9},
    )  # fmt: skip
    small = DeviceProfile(
        cuts={TOKENS: 0.2}, coding={(TOKENS, "int8"): (0.2, 800)}, token_s={}, memory_bytes={}, variant="w8"
    )
    cloud = CloudProfile(
        cuts={IMAGE: 0.3, TOKENS: 0.2, LM: 0.1}, coding={JPEG: 0.01}, token_s={IMAGE: 0.02}, queue_s=0.5,
        variants=frozenset({"full", "w8"}),
    )  # fmt: skip
    drops = {Plan(*JPEG): AccuracyDrop(0.02, KindDrop("cars", 0.1)), Plan(TOKENS, "int8", "w8"): AccuracyDrop(0.03)}
    return Profiles("m", "here", "test", (device, small), (cloud,), drops, "measured", {Plan(*JPEG): (4, 5)})


def test_a_file_keeps_variants_and_what_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "profiles.json"
    write(path, profiles())
    assert read(path) == profiles()
    cloud = profiles().clouds[0]
    decoded = replace(cloud, coding=dict(cloud.coding) | {(TOKENS, "int8"): 0.01})
    lines = {str(line.plan): line for line in replace(read(path), clouds=(decoded,)).lines()}
    assert set(lines) == {"device/none", "image/jpeg90", "tokens/int8", "tokens/int8@w8"}  # nobody decoded at lm:1
    assert (lines["tokens/int8"].accuracy_drop, lines["tokens/int8@w8"].accuracy_drop) == (None, 0.03)
    assert (lines["image/jpeg90"].leak, lines["tokens/int8"].leak) == (0.9, None)


def test_a_file_is_read_by_people() -> None:
    """Each row has a line, and sizes are numbers."""
    text = (Path(__file__).parents[3] / "examples/profiles/scenes.json").read_text()
    assert re.search(
        r'^        \{"cut": "tokens", "level": "int4", "seconds": [0-9.]+, "payload_bytes": \d+, "leak": [0-9.]+\},$',
        text,
        re.M,
    )


def test_the_file_and_the_wire_are_one_description(tmp_path: Path) -> None:
    """Every field of the message that is written is in the file under its own name."""
    write(tmp_path / "p.json", profiles())
    content = json.loads((tmp_path / "p.json").read_text())
    message = profiles_to_message(profiles())
    assert list(content) == [field.name for field, _ in message.ListFields()]
    for number, device in enumerate(message.devices):
        row = content["devices"][number]["coding"][0]
        assert list(row) == [field.name for field, _ in device.coding[0].ListFields()]


def changed(tmp_path: Path, change: Callable[[Any], None], value: str = "") -> Path:
    """A sound file with a change; "HERE" in it becomes the value, as text."""
    path = tmp_path / "profiles.json"
    write(path, profiles())
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content).replace('"HERE"', value), "utf-8")
    return path


def put(*keys: str | int) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = "HERE"

    return change


FIGURES = [
    ("devices", 0, "cuts", 1, "seconds"), ("devices", 0, "tokens", 0, "seconds"), ("devices", 0, "memory", 0, "bytes"),
    ("devices", 0, "coding", 0, "seconds"), ("devices", 0, "coding", 0, "payload_bytes"),
    ("clouds", 0, "cuts", 0, "seconds"), ("clouds", 0, "coding", 0, "seconds"), ("accuracy", 0, "drop"),
    ("accuracy", 0, "worst_kind", "drop"), ("sizes", 0, "payload_bytes", 0),
]  # fmt: skip


@pytest.mark.parametrize("value", ["NaN", "-1", "null", "[1]", "1e999", '"much"'])
@pytest.mark.parametrize("keys", FIGURES, ids=lambda keys: ".".join(map(str, keys)))
def test_figures_of_a_profile_file(tmp_path: Path, keys: tuple[str | int, ...], value: str) -> None:
    path = changed(tmp_path, put(*keys), value)
    with pytest.raises(UsageError) as caught:
        read(path)
    assert str(path) in caught.value.sentence
    assert caught.value.advice


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("accuracy", 0, "drop"), "1.5", "drop of a plan is 1.5"),
        (("devices", 0, "coding", 0, "leak"), "1.5", "leak"),
        (("accuracy", 0, "plan"), '"everything"', "'everything' is not a cut"),
        (("devices", 0, "cuts", 0, "cut"), '"everything"', "'everything' is not a cut"),
        (("devices", 1, "variant"), '"full"', "full stands twice"),
        (("devices", 0, "cuts", 0, "cut"), '"tokens"', "tokens stands twice"),
        (("devices", 0, "cuts", 0, "secs"), "1", 'no field named "secs" at "Profiles.devices'),
        (("devices",), "[]", "It lacks devices"),
        (("clouds",), "{}", "clouds"),
        (("accuracy_source",), '"guessed"', "accuracy_source is 'guessed'"),
        (("format",), "1", "It has format 1, but this version reads 2"),
    ],
)
def test_profile_files_of_another_form(tmp_path: Path, keys: tuple[str | int, ...], value: str, words: str) -> None:
    path = changed(tmp_path, put(*keys), value)
    with pytest.raises(UsageError, match=re.escape(words)):
        read(path)


@pytest.mark.parametrize("text", ["3", "[]", '"text"', "{}"])
def test_what_is_no_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"p\.json"):
        read(path)
