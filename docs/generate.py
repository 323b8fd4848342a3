"""Writes the reference pages that follow from the code: `python docs/generate.py`, or `make docs`.

configuration.md comes from the settings of each node and of a scenario, cli.md from the program's verbs. A test compares the
committed pages with what this file makes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cloud_node.settings import CloudSettings
from edge_node.settings import EdgeSettings
from orchestrator.settings import OrchestratorSettings
from orchestrator.simulator.scenario import Scenario
from splitvlm.cli.program import app
from splitvlm.settings import Section

REFERENCE = Path(__file__).parent / "reference"
KINDS: dict[str, type[Section]] = {
    "edge": EdgeSettings,
    "cloud": CloudSettings,
    "orchestrator": OrchestratorSettings,
    "simulate": Scenario,
}
_EDIT = "This page is made by `make docs` from the code. Do not edit it by hand.\n"
_BOUNDS = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "above"),
    ("maximum", "at most"),
    ("exclusiveMaximum", "below"),
)
_VALUES = {str: "text", int: "whole number", float: "number", Path: "path", list[str]: "text"}
_NODES = "splitvlm {kind} --config FILE"


def main() -> None:
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, "utf-8")


def pages() -> dict[str, str]:
    """Returns the text of each generated page by its file's name in docs/reference."""
    return {"configuration.md": configuration(), "cli.md": commands()}


def configuration() -> str:
    """Returns a page with a table for each section of each kind of configuration file."""
    parts = [
        "# Configuration\n",
        _EDIT,
        "Files are YAML in UTF-8. Paths count from the file's folder; `~` and `$NAME` are expanded.\n"
        "A key that is unknown, has an invalid value or stands twice is refused by name. `splitvlm config check KIND FILE`\n"
        "tests a file.\n",
    ]
    for kind, settings in KINDS.items():
        verb = "splitvlm simulate FILE" if kind == "simulate" else _NODES.format(kind=kind)
        parts.append(f"## {kind}: `{verb}`\n")
        parts.extend(_section(settings, ""))
    return "\n".join(parts)


def _section(settings: type[Section], prefix: str) -> Iterator[str]:
    """Yields the tables of a section and of the sections in it. `prefix` is what stands before its keys."""
    schema = settings.model_json_schema()
    inner = {key: section for key, field in settings.model_fields.items() if (section := _only_section(field))}
    if prefix:
        yield f"### `{prefix.removesuffix('.')}`\n"
        if settings.__doc__ and settings.__doc__ != Section.__doc__:
            yield settings.__doc__.split("\n\n")[0].replace("\n    ", "\n") + "\n"
    rows = [
        f"| `{prefix}{key}` | {_type(schema['properties'][key], schema)} | {_default(field)} | {_text(field.description)} |"
        for key, field in settings.model_fields.items()
        if key not in inner
    ]
    if rows:
        yield "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows]) + "\n"
    for key, section in inner.items():
        listed = "[]" if isinstance(settings.model_fields[key].default, list) else ""
        yield from _section(section, f"{prefix}{key}{listed}.")


def _only_section(field: FieldInfo) -> type[Section] | None:
    """Returns the section that a key is, or is a list of; None where it may be something else, too."""
    kinds = [field.annotation, *get_args(field.annotation)]
    sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
    others = [kind for kind in get_args(field.annotation) if kind is not type(None) and kind not in sections]
    return sections[0] if sections and not others else None


def _type(part: dict[str, Any], schema: dict[str, Any]) -> str:
    """Returns what a key takes, in words: its type, its choices and its bounds."""
    if "$ref" in part:
        named = schema["$defs"][part["$ref"].rpartition("/")[2]]
        return "keys " + ", ".join(f"`{key}`" for key in named["properties"])
    if "anyOf" in part:
        return " or ".join(dict.fromkeys(_type(choice, schema) for choice in part["anyOf"]))
    if "enum" in part:
        return " or ".join(f"`{choice}`" for choice in part["enum"])
    if "const" in part:
        return f"`{part['const']}`"
    if part.get("type") == "array":
        return f"list of: {_type(part['items'], schema)}"
    if part.get("type") == "object":
        return f"a {_type(part['additionalProperties'], schema)} for each key"
    bounds = " and ".join(f"{word} {_number(part[key])}" for key, word in _BOUNDS if key in part)
    kind = {"string": "text", "number": "number", "integer": "whole number", "boolean": "true or false"}
    name = "path" if part.get("format") == "path" else kind.get(part["type"], part["type"])
    return f"{name} {bounds}".strip()


def _number(number: float) -> str:
    return f"{int(number) if number == int(number) else number:,}"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "null"
    return f"`{json.dumps(field.default, default=str)}`"


def _text(description: str | None) -> str:
    return (description or "").replace("|", "\\|")


def commands() -> str:
    """Returns a page with the help of each verb."""
    parts = [
        "# Commands\n",
        _EDIT,
        "Exit codes are in [errors](errors.md). Every `--json` without a file writes to standard output.\n",
    ]
    for path, command in _verbs(typer.main.get_command(app), "splitvlm"):
        parts.append(f"## `{path}`\n")
        parts.append((command.help or "").strip() + "\n")
        rows = [_parameter(parameter) for parameter in command.params if not parameter.hidden]
        if rows:
            parts.append(
                "\n".join(["| argument or option | value | default | meaning |", "|---|---|---|---|", *rows]) + "\n"
            )
    return "\n".join(parts)


def _verbs(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yields each command without commands of its own, with its words."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    yield from itertools.chain.from_iterable(
        _verbs(command.commands[name], f"{path} {name}") for name in command.list_commands(None)
    )


def _parameter(parameter: Any) -> str:
    """Returns the table's row of an argument or option. Typer of before 0.26 has these facts elsewhere: see constraints.txt."""
    names = ", ".join(f"`{name}`" for name in parameter.opts if name.startswith("-")) or f"`{parameter.name.upper()}`"
    kind = parameter.type_descriptor.annotation
    value = "" if kind is bool else _VALUES.get(kind, getattr(kind, "__name__", str(kind)))
    ends = ((parameter.min, "at least"), (parameter.max, "at most"))
    bounds = " and ".join(f"{word} {_number(number)}" for number, word in ends if number is not None)
    shown = "required" if parameter.required else _given(parameter.default)
    return f"| {names} | {f'{value} {bounds}'.strip()} | {shown} | {_text(parameter.help)} |"


def _given(default: object) -> str:
    return "" if default is None or default is False or default in ("", []) else f"`{default}`"


if __name__ == "__main__":
    main()
