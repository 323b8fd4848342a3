"""Makes variants: one table of kinds, and what is the same for all of them (the folder, the manifest, the options)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from splitvlm.bundle import open_bundle
from splitvlm.domain import parse_variant
from splitvlm.errors import UsageError
from splitvlm.variants import codec_tuned, distil, masks, prune
from splitvlm.variants.folder import Made, Variant, new_folder, read_variant, write_variant
from splitvlm.variants.half import make_half
from splitvlm.variants.making import Kind, Making, Option
from splitvlm.variants.quantise import (
    DYNAMIC_OPTIONS,
    INT4_OPTIONS,
    ONNX_OPTIONS,
    STATIC_OPTIONS,
    make_int4_weights,
    make_int8_dynamic,
    make_int8_static,
    make_onnx,
)

LIBRARIES = ("splitvlm", "torch", "transformers", "onnx", "onnxruntime", "openvino", "peft")

KINDS: dict[str, Kind] = {
    "bf16": Kind(make_half, "tower and connector in bfloat16"),
    "pruned": Kind(prune.make_pruned, "without the heads, channels and layers that matter least", prune.OPTIONS),
    "magnitude": Kind(
        masks.make_magnitude, "smallest weights at zero: a baseline of no less time", masks.MAGNITUDE_OPTIONS
    ),
    "sparse-2-4": Kind(
        masks.make_sparse, "two of four weights at zero: a baseline of no less time", masks.SPARSE_OPTIONS
    ),
    "student-tower": Kind(
        distil.make_student_tower, "a narrow tower, taught the parent's visual tokens", distil.OPTIONS
    ),
    "onnx": Kind(make_onnx, "exported to ONNX; computes in float32 or bfloat16", ONNX_OPTIONS),
    "int8-static": Kind(make_int8_static, "exported; products in 8 bits, ranges from samples", STATIC_OPTIONS),
    "int8-dynamic": Kind(make_int8_dynamic, "exported; products in 8 bits, ranges found at each run", DYNAMIC_OPTIONS),
    "int4-weights": Kind(make_int4_weights, "exported; weights in blocks of 4 bits", INT4_OPTIONS),
    "codec-tuned": Kind(
        codec_tuned.make_codec_tuned, "a connector that learned to live with one codec level", codec_tuned.OPTIONS
    ),
}
"""Every kind of variant that `splitvlm variant make` knows. A kind imports libraries that are optional when it runs."""


def make_variant(
    kind_name: str,
    model: str,
    out: Path,
    *,
    name: str = "",
    seed: int = 0,
    data: Path | None = None,
    samples: int = 300,
    options: Sequence[str] = (),
) -> Variant:
    """Makes a variant of a model in the folder `out`, named after its kind unless `name` is given.

    `options` are texts such as "share=0.3". Raises UsageError.
    """
    kind = _kind(kind_name)
    values = _options(kind_name, kind, options)
    bundle = open_bundle(model)
    name = parse_variant(name or kind_name)
    with new_folder(out) as folder:
        made = kind.make(Making(model, bundle, folder, name, seed, data, samples, values))
        without_torch = _device_files(folder, model, made)
        how = {
            "command": _command(kind_name, model, seed, data, samples, values),
            "seed": seed,
            "data": str(data or "drawn scenes"),
            "samples": samples,
            "libraries": _libraries(),
            **without_torch,
            **made.how,
        }
        write_variant(folder, name, kind_name, bundle.spec, replace(made, how=how))
    return read_variant(out, bundle.spec)


def _device_files(folder: Path, model: str, made: Made) -> dict[str, str]:
    """Writes what lets an exported stage serve a device without torch; returns why it cannot be, where it cannot."""
    if made.stage is None:
        return {}
    from splitvlm.variants.device_files import write_device_files

    reason = write_device_files(folder, model)
    return {"needs_torch": reason} if reason else {}


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise UsageError(f"'{name}' is not a kind of variant.", advice=f"Kinds are {', '.join(KINDS)}.")
    return KINDS[name]


def _options(kind_name: str, kind: Kind, texts: Sequence[str]) -> dict[str, Option]:
    """Returns the kind's options with their values, the defaults included. Raises UsageError."""
    values = dict(kind.options)
    known = ", ".join(f"{key}={default}" for key, default in kind.options.items()) or "none"
    for text in texts:
        key, _, value = text.partition("=")
        if key not in kind.options:
            raise UsageError(f"The kind {kind_name} has no option '{key}'.", advice=f"Its options are {known}.")
        try:
            values[key] = type(kind.options[key])(value)
        except ValueError as error:
            raise UsageError(
                f"The option {key} is '{value}', which is no {type(kind.options[key]).__name__}.",
                advice=f"The defaults are {known}.",
            ) from error
    return values


def _command(kind: str, model: str, seed: int, data: Path | None, samples: int, options: Mapping[str, Option]) -> str:
    """Returns the command that makes the variant again."""
    told = [f"splitvlm variant make {kind} {model}", f"--seed {seed}", f"--samples {samples}"]
    told += [f"--data {data}"] if data else []
    return " ".join([*told, *(f"--set {key}={value}" for key, value in options.items())])


def _libraries() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions
