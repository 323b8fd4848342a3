"""A picture and tiny models that several tests use."""

from __future__ import annotations

from functools import cache

from splitvlm.scenes import draw
from tests.made_once import made_once

PICTURE = draw("microscopy", 5).image


@cache
def tiny_model(kind: str) -> str:
    """The folder of a tiny model with random weights, made once a test run."""
    from tests.tiny_models import save

    return str(made_once(f"model-{kind}", lambda folder: save(kind, folder)))
