"""Reads a path in a setting by one rule for configurations, scenarios and model names.

keys/edge-1      counts from the folder of the file that names it; on the command line from the current folder
~/keys           the user's home folder
$NAME, ${NAME}   a variable of the environment, which must be set; $$ is a dollar
"""

from __future__ import annotations

import os
from pathlib import Path
from string import Template

from splitvlm.errors import UsageError


def path_of(text: str, base: Path = Path()) -> Path:
    """Returns the path that a setting names; relative ones count from `base`. Raises UsageError."""
    try:
        filled = Template(text).substitute(os.environ)
    except KeyError as error:
        raise UsageError(
            f"'{text}' names the variable {error.args[0]}, which is not set.", advice="Set it, or write the path out."
        ) from error
    except ValueError as error:
        raise UsageError(
            f"'{text}' has a $ that begins no variable's name.", advice="Write $$ for a dollar."
        ) from error
    try:
        return base / Path(filled).expanduser()
    except RuntimeError as error:
        raise UsageError(f"'{text}' names a home folder that is not known.", advice="Write the path out.") from error


def looks_like_path(text: str) -> bool:
    """Tells whether a model's name can only be a path: nothing that the Hugging Face Hub knows begins so."""
    return text.startswith(("/", "./", "../", "~", "$")) or text in (".", "..")
