"""Text files that people and tools write, read in one way everywhere: configurations, learned tables, traces, questions.

- UTF-8, with or without a byte-order mark; a line ends with LF, CRLF or CR, and with nothing else: U+2028 is text.
- A key that stands twice in one mapping is refused with its line, at every depth: of two privacy floors one would be lost.
- JSON's numbers are finite: NaN and Infinity are none.
- YAML's aliases (`*name`) are taken; its merge keys (`<<`) are not, because they hide which of two values counts.

Every error is of the class that the caller names and tells the file, and the line where there is one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from splitvlm.errors import SplitvlmError, UsageError

MAX_BYTES = 32 * 2**20
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?|[{}\[\]]')
_MERGE_TAG = "tag:yaml.org,2002:merge"


def read_text(
    path: Path, what: str = "file", *, error: type[SplitvlmError] = UsageError, advice: str = "", most: int = MAX_BYTES
) -> str:
    """Returns the file's text with LF line ends.

    `what` is what the file is to its reader, as in "Cannot read the trace x.csv".
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as cause:
        raise error(f"Cannot read the {what} {path}: {cause.strerror}.", advice=advice) from cause
    if len(data) > most:
        raise error(f"The {what} {path} is larger than {most / 2**20:g} MiB.", advice=advice)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line = 1 + data.count(b"\n", 0, cause.start)
        raise error(f"{path}:{line} is not a text file in UTF-8.", advice=advice or "Save it as UTF-8.") from cause
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(
    text: str, source: str, *, error: type[SplitvlmError] = UsageError, first_line: int = 1, advice: str = ""
) -> Any:
    """Returns the value of a JSON text that begins at `first_line` of `source`."""
    try:
        return json.loads(  # noqa: TID251  the one place
            text, object_pairs_hook=_without_duplicates, parse_constant=_no_number, parse_float=_finite_float
        )
    except _Duplicate:
        key, line = _first_duplicate(text)
        raise _twice(source, first_line + line - 1, key, error) from None
    except json.JSONDecodeError as cause:
        raise error(f"{source}:{first_line + cause.lineno - 1} is not JSON: {cause.msg}.", advice=advice) from cause
    except (ValueError, RecursionError) as cause:
        raise error(
            f"{source}:{first_line} is not JSON that can be read: {_one_line(cause)}.", advice=advice
        ) from cause


def read_json(path: Path, what: str = "file", *, advice: str = "", most: int = MAX_BYTES) -> Any:
    """Returns the value of a JSON file. Raises UsageError."""
    return parse_json(read_text(path, what, advice=advice, most=most), str(path), advice=advice)


def read_json_lines(path: Path, what: str = "file", *, advice: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("file:line", value) for each line of a JSON-lines file that is not blank. Raises UsageError."""
    for number, line in enumerate(read_text(path, what, advice=advice, most=2**30).split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", parse_json(line, str(path), first_line=number)


def parse_yaml(text: str, source: str, *, error: type[SplitvlmError] = UsageError) -> Any:
    """Returns the value of a YAML text: the safe tags only."""
    try:
        return yaml.load(text, _Loader)  # noqa: TID251  _Loader is the safe one, and stricter
    except _Refused as cause:
        raise error(f"{source}:{cause.line}: {cause.sentence}", advice=cause.advice) from None
    except (yaml.YAMLError, ValueError, RecursionError) as cause:  # ValueError: a date of month 13
        raise error(f"{source} is not valid YAML: {_one_line(cause)}.") from cause


class _Refused(Exception):
    def __init__(self, line: int, sentence: str, advice: str) -> None:
        super().__init__(sentence)
        self.line, self.sentence, self.advice = line, sentence, advice


class _Loader(yaml.SafeLoader):
    """Is yaml's safe loader, which alone would let the last of equal keys win and merge mappings."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE_TAG:
                raise _Refused(line, "the merge key '<<' is not taken.", "Write the merged keys out.")
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):  # yaml refuses the others itself
                if key in lines:
                    raise _Refused(line, *_twice_words(str(key), lines[key]))
                lines[key] = line
        return super().construct_mapping(node, deep)


class _Duplicate(ValueError):
    """Says that a key stands twice in a JSON object."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _Duplicate
    return made


def _first_duplicate(text: str) -> tuple[str, int]:
    """Returns the first key that stands twice in one object of a JSON text, with its line. The text has one."""
    open_keys: list[set[str]] = []
    for token in _JSON_TOKEN.finditer(text):
        if token[0] in ("{", "["):
            open_keys.append(set())
        elif token[0] in ("}", "]"):
            open_keys.pop()
        elif token[1] is not None:
            key = str(json.loads(token[0].removesuffix(token[1])))  # noqa: TID251  a text alone
            if key in open_keys[-1]:
                return key, 1 + text.count("\n", 0, token.start())
            open_keys[-1].add(key)
    raise AssertionError("json found a duplicate that is not there")


def _twice(source: str, line: int, key: str, error: type[SplitvlmError]) -> SplitvlmError:
    sentence, advice = _twice_words(key)
    return error(f"{source}:{line}: {sentence}", advice=advice)


def _twice_words(key: str, first_line: int | None = None) -> tuple[str, str]:
    first = f" (first in line {first_line})" if first_line else ""
    return f"the key '{key}' stands twice{first}.", "Only one of them could count: join them."


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large a number")
    return number


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
