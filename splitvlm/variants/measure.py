"""Measures what a variant's plans lose, and how long its tower takes beside the model's own. Accuracy goes into its folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from splitvlm.bundle import Bundle, open_bundle
from splitvlm.bundle.accuracy import larger_sample
from splitvlm.bundle.figures import ACCURACY_FILE
from splitvlm.domain import DEVICE, TOKENS, Plan
from splitvlm.evaluation.command import chosen_examples, print_plans
from splitvlm.evaluation.plan_accuracy import measure_plans
from splitvlm.node.progress import show_progress
from splitvlm.variants.folder import Variant, read_variant
from splitvlm.variants.manifest import read_manifest


def open_variant(folder: Path) -> tuple[Variant, Bundle]:
    """Returns the variant in a folder and its parent's bundle: the parent is the model that its manifest names.

    Raises UsageError.
    """
    bundle = open_bundle(read_manifest(folder).parent.model)
    return read_variant(folder, bundle.spec), bundle


def measure_variant(
    folder: Path, data: Path | None, questions: int, seed: int, levels: Collection[str] = ()
) -> dict[str, object]:
    """Returns {"variant", "questions", "seed", "plans": {plan: row of `measure_plans`}}; prints it, puts it into the folder.

    Drops are against the undivided model's answers. Raises UsageError.
    """
    variant, bundle = open_variant(folder)
    examples = chosen_examples(data, questions, seed)
    cut = TOKENS if TOKENS in variant.cuts else DEVICE
    with show_progress(f"Asking {variant.name}") as told:
        plans = measure_plans(
            bundle.spec.name, bundle, [cut], examples, told, os.cpu_count() or 1, levels, variant=variant
        )
    if cut == TOKENS and DEVICE in variant.cuts:
        plans |= _alone(variant, plans)
    print_plans(f"{variant.name} of {bundle.spec.name}", plans)
    path = variant.add(ACCURACY_FILE, bundle, plans, larger_sample)
    print(f"Added to {path}; figures of more questions stay.")
    return {"variant": variant.name, "questions": len(examples), "seed": seed, "plans": plans}


def _alone(variant: Variant, plans: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the row of the cut `device`: the answers are those of lossless visual tokens (law 1), and nothing crosses."""
    row = plans[str(Plan(TOKENS, "lossless", variant.name))]
    return {str(Plan(DEVICE, "none", variant.name)): row | {"payload_bytes": 0.0}}
