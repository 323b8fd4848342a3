"""`splitvlm bundle show`: a model's bundle for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from splitvlm.bundle import Bundle, open_bundle
from splitvlm.bundle.folder import LEARNED_FILES
from splitvlm.domain import Plan


def show(model: str, folder: Path | None) -> dict[str, object]:
    """Prints where a bundle's files are and what they hold; returns it. Raises UsageError."""
    bundle = open_bundle(model, folder)
    files = {name: path for name in LEARNED_FILES if (path := bundle.file(name)) is not None}
    contents = dict(zip(LEARNED_FILES, _contents(bundle), strict=True))
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{model}, weights {bundle.spec.weights_hash[:12]}")
    console.print(f"What is learned about it goes into {bundle.target or 'no folder: there is no home folder'}")
    for name in LEARNED_FILES:
        where = f" ({files[name].parent})" if name in files else ""
        console.print(f"{name:24} {contents[name]}{where}")
    return {
        "model": model,
        "weights_hash": bundle.spec.weights_hash,
        "folder": str(bundle.target or ""),
        "files": {name: str(path) for name, path in files.items()},
        "calibrated_cuts": sorted(map(str, bundle.codec.channels)),
        "accuracy_plans": _named(bundle.accuracy),
        "leak_plans": _named(bundle.leaks),
    }


def _contents(bundle: Bundle) -> tuple[str, str, str]:
    """Returns in words what each of LEARNED_FILES holds."""
    cuts = sorted(bundle.codec.channels, key=lambda cut: cut.depth)
    calibrated = f"levels of {', '.join(map(str, cuts))}" if cuts else "no calibrated levels"
    return calibrated, _counted(bundle.accuracy, "accuracy"), _counted(bundle.leaks, "leak")


def _counted(plans: Iterable[Plan], what: str) -> str:
    number = len(list(plans))
    return f"{what} of {number} plans" if number else f"no {what}: it is unknown"


def _named(plans: Iterable[Plan]) -> list[str]:
    return sorted(map(str, plans))
