"""Variants that take no training: a tower that is cut short, whose answers are not the model's."""

from __future__ import annotations

import json
from pathlib import Path

from splitvlm.bundle import open_bundle
from splitvlm.domain import DEVICE, TOKENS
from splitvlm.model.loading import load_whole
from splitvlm.variants.folder import Made, Variant, new_folder, read_variant, write_variant
from splitvlm.variants.weights import FILES, save_tower


def short_variant(model: str, out: Path, *, name: str = "short", seed: int = 0, drop: float | None = None) -> Variant:
    """Makes a variant of an Idefics3 model whose tower has one layer; `drop` is what its plan at tokens is said to lose."""
    bundle = open_bundle(model)
    whole, _ = load_whole(model)
    encoder = whole.model.vision_model.encoder
    encoder.layers = encoder.layers[:1]
    whole.config.vision_config.num_hidden_layers = 1
    with new_folder(out) as folder:
        parameters = save_tower(folder, whole)
        made = Made((TOKENS, DEVICE), parameters, weights=FILES, how={"seed": seed})
        write_variant(folder, name, "short", bundle.spec, made)
    variant = read_variant(out, bundle.spec)
    if drop is not None:
        row = {"questions": 1_000, "drop": drop, "kinds": {"all": {"questions": 1_000, "lost": 50, "gained": 0}}}
        figures = {"calibration": variant.calibration_hash(bundle), "plans": {f"tokens/lossless@{name}": row}}
        (out / "accuracy.json").write_text(json.dumps(figures), "utf-8")
    return variant
