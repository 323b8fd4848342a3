"""Text files: one reader, which refuses what would be lost in silence, and names file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_node.settings import EdgeSettings
from orchestrator.simulator.scenario import Scenario
from splitvlm.bundle.leaks import read_leaks
from splitvlm.crypto.ledger import LEDGER_FILE, read_ledger
from splitvlm.errors import ConfigError, KeysError, SplitvlmError, UsageError
from splitvlm.evaluation import answers
from splitvlm.files.text import parse_json, parse_yaml, read_json, read_json_lines, read_text
from splitvlm.link.tracefiles import load as load_trace
from splitvlm.profiling import profile_file
from splitvlm.settings import load

TWICE = """node: clinic-1
planning:
  privacy_floor: tokens
security: {keys: k}
# added in week 2
planning:
  max_accuracy_drop: 0.01
"""


def of(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def test_a_section_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    """A privacy floor was lost so, and 55,100 bytes of picture sent."""
    file = of(tmp_path, "clinic.yaml", TWICE)
    with pytest.raises(ConfigError, match=r"clinic\.yaml:6: the key 'planning' stands twice \(first in line 2\)"):
        load(file, EdgeSettings)


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("a: {b: 1, c: 2, b: 3}", 1, "b"),
        ("a:\n - x: 1\n   y: 2\n   x: 3\n", 4, "x"),
        ("yes: 1\ntrue: 2\n", 2, "True"),
        ("1: a\n0x1: b\n", 2, "1"),
        ('"a": 1\na: 2\n', 2, "a"),
    ],
)
def test_yaml_keys_twice_at_every_depth_and_in_every_spelling(text: str, line: int, key: str) -> None:
    with pytest.raises(UsageError, match=f"x:{line}: the key '{key}' stands twice"):
        parse_yaml(text, "x")


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ('{"a": 1, "a": 2}', 1, "a"),
        ('{"p": [{"q": 1},\n {"q": {"r": 1,\n "r": 2}}]}', 3, "r"),
        ('{"a": "a\\"b{", \n"\\u0061": 2}', 2, "a"),
    ],
)
def test_json_keys_twice_at_every_depth_and_in_every_spelling(text: str, line: int, key: str) -> None:
    with pytest.raises(UsageError, match=f"x:{line}: the key '{key}' stands twice"):
        parse_json(text, "x")


def test_learned_files_are_read_by_the_same_rule(tmp_path: Path) -> None:
    profiles = of(tmp_path, "profiles.json", '{"format": 1,\n "format": 1}')
    with pytest.raises(UsageError, match=r"profiles\.json:2: the key 'format' stands twice"):
        profile_file.read(profiles)
    questions = of(tmp_path, "q.jsonl", '\n{"image": "a", "question": "q", "answer": "1", "answer": "2"}\n')
    with pytest.raises(UsageError, match=r"q\.jsonl:2: the key 'answer' stands twice"):
        answers.read(questions)
    scenario = of(tmp_path, "s.yaml", "profiles: p\nlink: {rtt_s: 1, rtt_s: 2}\n")
    with pytest.raises(ConfigError, match=r"s\.yaml:2: the key 'rtt_s' stands twice"):
        load(scenario, Scenario)


def test_anchors_are_taken_and_merges_are_not() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x\n", "x") == {"a": [1, 2], "b": [1, 2]}
    with pytest.raises(UsageError, match="x:3: the merge key '<<' is not taken"):
        parse_yaml("a: &x {k: 1}\nb:\n  <<: *x\n", "x")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(tmp_path: Path, constant: str) -> None:
    """A leak of NaN became a leak of 0.0."""
    file = of(tmp_path, "leak.json", f'{{"plans": {{"tokens/klt3": {{"floor": 0.1, "answered": {constant}}}}}}}')
    with pytest.raises(UsageError, match=r"leak\.json:1 is not JSON that can be read"):
        read_leaks(file, "")


@pytest.mark.parametrize(
    ("name", "content", "reader"),
    [
        ("a.yaml", "node: edge-7\n", lambda file: load(file, EdgeSettings).node),
        ("a.csv", "seconds,uplink_bps\n0,1000000\n1,2000000\n", lambda file: load_trace(str(file)).up.duration_s),
        ("a.mm", "1\n5\n9\n", lambda file: load_trace(str(file)).up.duration_s),
        ("a.jsonl", '{"a": 1}\n', lambda file: [value for _, value in read_json_lines(file)]),
        ("a.json", '{"a": 1}', read_json),
    ],
)
def test_byte_order_marks_and_line_ends_are_no_text(
    tmp_path: Path, name: str, content: str, reader: Callable[[Path], object]
) -> None:
    plain = reader(of(tmp_path, name, content))
    assert reader(of(tmp_path, name, content.encode("utf-8-sig"))) == plain
    assert reader(of(tmp_path, name, content.replace("\n", "\r\n"))) == plain


def test_a_line_separator_of_unicode_ends_no_line(tmp_path: Path) -> None:
    file = of(tmp_path, "q.jsonl", '{"q": "a\u2028b\x85c"}\n{"q": "d"}\n')
    assert [value["q"] for _, value in read_json_lines(file)] == ["a\u2028b\x85c", "d"]


@pytest.mark.parametrize("name", ["x.yaml", "x.csv", "x.jsonl"])
def test_latin_text_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    file = of(tmp_path, name, b"a\nb\ncaf\xe9\n")
    readers: dict[str, Callable[[], object]] = {
        "x.yaml": lambda: load(file, EdgeSettings),
        "x.csv": lambda: load_trace(str(file)),
        "x.jsonl": lambda: answers.read(file),
    }
    with pytest.raises(SplitvlmError, match=r"x\.\w+:3 is not a text file in UTF-8"):
        readers[name]()


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "a: 2020-13-45", "a: !!python/object:os.system {}"])
def test_yaml_that_breaks_readers_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="x is not valid YAML"):
        parse_yaml(text, "x")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5_000, "{a: 1}", ""])
def test_json_that_breaks_readers_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="x:1 is not JSON"):
        parse_json(text, "x")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot read the trace .*: No such file"):
        read_text(tmp_path / "none", "trace")
    with pytest.raises(UsageError, match="Is a directory"):
        read_text(tmp_path)
    with pytest.raises(UsageError, match="is larger than"):
        read_text(Path("/dev/zero"), most=1000)


def test_the_authoritys_ledger_is_read_by_the_same_rule(tmp_path: Path) -> None:
    """Of two serials in one line one would never be revoked."""
    entry = '{"serial": "a1", "serial": "b2", "node": "n", "role": "edge", "until": "2026-01-01T00:00:00+00:00"}\n'
    of(tmp_path, LEDGER_FILE, entry)
    with pytest.raises(KeysError, match=LEDGER_FILE):
        read_ledger(tmp_path)
    of(tmp_path, LEDGER_FILE, entry.replace('"serial": "b2", ', ""))
    assert set(read_ledger(tmp_path)) == {0xA1}
    of(tmp_path, LEDGER_FILE, "")
    assert read_ledger(tmp_path) == {}
