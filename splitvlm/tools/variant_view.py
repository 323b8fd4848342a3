"""`splitvlm variant make`, `kinds` and `list`: variants shown to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from splitvlm.errors import UsageError
from splitvlm.files.shown import percent, shown_or_unknown
from splitvlm.variants.folder import Variant
from splitvlm.variants.make import KINDS
from splitvlm.variants.measure import open_variant


def describe(variant: Variant) -> str:
    """Returns a line about a variant, and what its making found of layers and channels."""
    manifest = variant.manifest
    line = (
        f"{variant.folder}: {variant.name} ({manifest.kind}) of {manifest.parent.model}, {manifest.parameters:,} parameters, "
        f"{variant.weight_bytes:,} bytes, for {' and '.join(manifest.cuts)}; {variant.hash[:12]}"
    )
    return "\n".join([line, *found_in(manifest.made)])


def found_in(made: Mapping[str, Any]) -> Iterator[str]:
    """Yields what a quantised variant's manifest says of layers that keep float32, and of outlier channels."""
    if kept := made.get("kept_float32"):
        yield f"In float32, because the answers depend on them most: {', '.join(kept)}."
    for layer, channels in made.get("outlier_channels", {}).items():
        shown = ", ".join(f"{channel} ({times:g} times the median)" for channel, times in channels.items())
        yield f"Outlier channels of the states that enter {layer}: {shown}."


def kinds_table() -> None:
    """Prints the kinds of variants."""
    table = _table("kind", "what", "options")
    for name, kind in KINDS.items():
        table.add_row(name, kind.summary, " ".join(f"{key}={value}" for key, value in kind.options.items()))
    Console().print(table)


def list_variants(folders: Sequence[Path]) -> list[dict[str, object]]:
    """Prints the variants in some folders, or in the folders inside those; returns a row for each. Raises UsageError."""
    inner_folders = [inner for folder in folders for inner in _variants_in(folder)]
    table = _table("variant", "kind", "cuts", "parameters", "bytes", "drop, points", "folder")
    rows = [_row(folder) for folder in inner_folders]
    for row in rows:
        told = (value for key, value in row.items() if key != "of")
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in told))
    Console(soft_wrap=True).print(table)
    return rows


def _variants_in(folder: Path) -> list[Path]:
    if (folder / "variant.json").is_file():
        return [folder]
    inner = sorted(path.parent for path in folder.glob("*/variant.json"))
    if not inner:
        raise UsageError(f"There is no variant in {folder}.", advice="`splitvlm variant make` makes one.")
    return inner


def _row(folder: Path) -> dict[str, object]:
    variant, bundle = open_variant(folder)
    drops = variant.accuracy(bundle)
    lossless = next((drop.mean for plan, drop in drops.items() if plan.level == "lossless"), None)
    return {
        "variant": variant.name,
        "kind": variant.manifest.kind,
        "of": variant.manifest.parent.model,
        "cuts": " ".join(variant.manifest.cuts),
        "parameters": variant.manifest.parameters,
        "bytes": variant.weight_bytes,
        "drop": shown_or_unknown(lossless, 100, 2),
        "folder": str(folder),
    }


def _table(*names: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, justify="right" if name in ("parameters", "bytes", "drop, points") else "left")
    return table


def show_agreement(agreement: Mapping[str, Any]) -> str:
    """Returns what `check_variant` found, for people."""
    return (
        f"{agreement['variant']}: visual tokens differ from its parent's by {percent(agreement['rms_error'], 2)} "
        f"(root mean square; at most {percent(agreement['largest_error'], 2)} of the largest), and "
        f"{percent(agreement['same_answers'])} of {agreement['pictures']} answers are the parent's."
    )
