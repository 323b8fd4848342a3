"""Drawn scenes, questions about them, and the embedded model that was trained to answer those.

    scene = draw("microscopy", seed=7)      # the same picture for the same seed, always
    for question in ask(scene, 7): ...      # SceneQuestion(kind, text, answer)
    MODEL_DIR                               # the trained folder, for transformers' `from_pretrained`

Importing this package loads numpy and Pillow at most when a picture is drawn, and never torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitvlm.scenes.questions import ask, draw, held_out
    from splitvlm.scenes.scene import Scene, SceneQuestion, Thing

MODEL_DIR = Path(__file__).parent / "files"
TRAINED_DOMAINS = ("microscopy", "aerial", "road")
DOMAINS = (*TRAINED_DOMAINS, "orchard")
_HOMES = {
    "ask": "questions", "draw": "questions", "held_out": "questions",
    "SceneQuestion": "scene", "Scene": "scene", "Thing": "scene",
}  # fmt: skip

__all__ = ["DOMAINS", "MODEL_DIR", "TRAINED_DOMAINS", "Scene", "SceneQuestion", "Thing", "ask", "draw", "held_out"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
