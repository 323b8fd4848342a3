"""`--json`: a verb's result for programs, in a file or on standard output."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from splitvlm.cli.options import writable_file
from splitvlm.errors import UsageError

JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        callback=writable_file,
        help="also write the result to this file; without a file, or with `-`, to standard output",
    ),
]


def with_dash(arguments: list[str]) -> list[str]:
    """Returns the arguments with `-` after each `--json` that names no file: typer's options take a value always."""
    following = [*arguments[1:], "--"]
    return [
        part
        for argument, next_argument in zip(arguments, following, strict=True)
        for part in ((argument, "-") if argument == "--json" and next_argument.startswith("--") else (argument,))
    ]


def piped(arguments: list[str]) -> bool:
    """Tells from a command line whether its JSON goes to standard output, so that nothing else may be printed there."""
    return ("--json", "-") in itertools.pairwise(arguments)


def write_json(file: Path | None, result: object) -> None:
    """Writes `result` to a file, or to standard output for `-`; does nothing for None. Raises UsageError."""
    if file is None:
        return
    if str(file) == "-":
        assert sys.__stdout__ is not None
        print(json.dumps(result, indent=2), file=sys.__stdout__, flush=True)
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"Cannot write {file}: {error.strerror}.", advice="Choose another --json file.") from error
