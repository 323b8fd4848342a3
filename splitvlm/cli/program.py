"""The program `splitvlm`: all verbs, and how failures become one sentence and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated, Any

import typer

from splitvlm.cli.asking import asking_app
from splitvlm.cli.bundles import bundle_app
from splitvlm.cli.config import config_app
from splitvlm.cli.extras import extra_with
from splitvlm.cli.keys import keys_app
from splitvlm.cli.load import load_app
from splitvlm.cli.models import models_app
from splitvlm.cli.nodes import nodes_app
from splitvlm.cli.output import piped, with_dash
from splitvlm.cli.planning import planning_app
from splitvlm.cli.privacy import privacy_app
from splitvlm.cli.tools import tools_app
from splitvlm.cli.tuning import tuning_app
from splitvlm.cli.variants import variant_app
from splitvlm.errors import SplitvlmError

app = typer.Typer(
    help="Edge-cloud split inference for vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (nodes_app, asking_app, models_app, planning_app, tools_app, load_app, tuning_app):
    app.add_typer(group)
app.add_typer(keys_app, name="keys")
app.add_typer(bundle_app, name="bundle")
app.add_typer(config_app, name="config")
app.add_typer(privacy_app, name="privacy")
app.add_typer(variant_app, name="variant")


def print_version(wanted: bool) -> None:
    """Prints the installed version and ends."""
    if wanted:
        from importlib import metadata

        print(f"splitvlm {metadata.version('splitvlm')}")
        raise typer.Exit


# Typer brings its own copy of click since 0.26, and has no public name for the base of its usage errors.
_WrongUse: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Run a verb. Every expected failure is one sentence on standard error and an exit code of its kind."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without a sign shows "?"
    arguments = with_dash(_texts(sys.argv[1:]))
    aside = contextlib.redirect_stdout(sys.stderr) if piped(arguments) else contextlib.nullcontext()
    try:
        with aside:
            sys.exit(app(arguments, standalone_mode=False) or 0)
    except SplitvlmError as error:
        _fail(str(error), error.exit_code)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except typer.Abort:
        _fail("Stopped.", 130)
    except _WrongUse as error:
        message = error.format_message()
        if not message:  # no verb at all: the help was printed
            sys.exit(2)
        _fail(f"{message} Try `splitvlm --help`.", 2)
    except KeyboardInterrupt:
        _fail("Stopped.", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except ModuleNotFoundError as error:
        if (extra := extra_with(error.name or "")) is None:
            raise
        _fail(f"This needs {error.name}, which is not installed. Install it: pip install 'splitvlm[{extra}]'", 2)
    except Exception as error:
        if os.environ.get("SPLITVLM_DEBUG"):
            raise
        _fail(f"Unexpected {type(error).__name__}: {error}. SPLITVLM_DEBUG=1 shows where.", 1)


def _texts(arguments: list[str]) -> list[str]:
    """Returns the arguments.

    Ends where one is not UTF-8: Python holds its bytes as halves of characters that nobody can print.
    """
    for argument in arguments:
        if not argument.isprintable() and any("\udc80" <= sign <= "\udcff" for sign in argument):
            shown = os.fsencode(argument).decode("utf-8", "backslashreplace")
            _fail(f"The argument '{shown}' is not text in UTF-8. Set the terminal to UTF-8, or rename the file.", 2)
    return arguments


def _fail(sentence: str, exit_code: int) -> None:
    print(f"splitvlm: {sentence}", file=sys.stderr)
    sys.exit(exit_code)
