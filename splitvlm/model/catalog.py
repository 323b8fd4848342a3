"""Rows for `splitvlm models`: the embedded model and the shapes, with their layers, sizes and memory. Loads no weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from splitvlm.domain import DEVICE, IMAGE, TOKENS
from splitvlm.errors import UsageError
from splitvlm.model.loading import read_spec
from splitvlm.model.spec import ModelSpec

if TYPE_CHECKING:
    from rich.table import Table

RANDOM = "random weights: answers mean nothing"
Row = dict[str, object]


def rows() -> list[Row]:
    """Returns one row for each model that needs no download. Memory is in bytes, in float32, with 1024 tokens of context."""
    from splitvlm.model.shapes import SHAPES

    return [_row(name) for name in ("scenes", *(f"shape:{shape}" for shape in SHAPES))]


def table(listed: list[Row]) -> Table:
    """Returns the rows for people; memory in MiB."""
    from rich.table import Table

    made = Table(
        title="A Hugging Face id or folder can be named too",
        caption="MiB in float32: on the device for the cuts `tokens` and `device`, in the cloud for `image`.\n"
        f"* {RANDOM}",
    )
    made.add_column("model", no_wrap=True)
    for title in ("layers", "million\nweights", "tokens", "device", "image"):
        made.add_column(title, justify="right")
    for row in listed:
        layers = f"{row['vision_layers']} + {row['lm_layers']}" if "lm_layers" in row else str(row["note"])
        count = row.get("parameters")
        millions = f"{count / 1e6:,.1f}" if isinstance(count, int) else ""
        star = " *" if row["note"] == RANDOM else ""
        made.add_row(f"{row['name']}{star}", layers, millions, *(_mib(row.get(key)) for key in _MEMORY[:3]))
    return made


_MEMORY = ("device_tokens_bytes", "device_whole_bytes", "cloud_image_bytes", "cloud_tokens_bytes")


def _row(name: str) -> Row:
    try:
        return _facts(read_spec(name))
    except UsageError as error:  # an installation without the embedded model's files
        return {"name": name, "note": error.sentence}


def _facts(spec: ModelSpec) -> Row:
    memory = (
        spec.device_memory_bytes(TOKENS),
        spec.device_memory_bytes(DEVICE),
        spec.cloud_memory_bytes([IMAGE]),
        spec.cloud_memory_bytes([TOKENS]),
    )
    return {
        "name": spec.name,
        "family": spec.family,
        "vision_layers": spec.vision_layers,
        "lm_layers": spec.lm_layers,
        "parameters": spec.parameters.total,
        **dict(zip(_MEMORY, memory, strict=True)),
        "note": RANDOM if spec.random_weights else "",
    }


def _mib(size: object) -> str:
    return f"{size / 2**20:,.0f}" if isinstance(size, int) else ""
