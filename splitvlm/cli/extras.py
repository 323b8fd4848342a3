"""Tells which extra of this package installs a missing library, by the package's own metadata."""

from __future__ import annotations

import re

_DISTRIBUTIONS = {"PIL": "pillow"}  # imported by another name than they are installed by
_REQUIREMENT = re.compile(r"""([A-Za-z0-9._-]+).*extra == ["']([a-z]+)["']""")


def extra_with(module: str) -> str | None:
    """Returns the extra that installs this module's library; None where it is none of ours."""
    from importlib import metadata

    top = module.partition(".")[0]
    wanted = _DISTRIBUTIONS.get(top, top).lower().replace("_", "-")
    for requirement in metadata.requires("splitvlm") or ():
        match = _REQUIREMENT.match(requirement)
        if match is not None and match[1].lower() == wanted:
            return match[2]
    return None
