"""A picture and tiny models that several tests use."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from splitvlm.scenes import draw

PICTURE = draw("microscopy", 5).image


@cache
def tiny_model(kind: str) -> str:
    """The folder of a tiny model with random weights, made once a test run."""
    from tests.tiny_models import save

    return str(save(kind, Path(mkdtemp(prefix=f"splitvlm-{kind}-"))))
