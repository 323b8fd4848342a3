"""Fine-tuning to a new domain by LoRA: few weights learn from examples, on the device's side and on the cloud's.

What is written is an adapter of PEFT's format, which is named beside its base wherever a model is named: `scenes+orchard`. The
model goes on seeing examples of what it knows, so that it keeps it (rehearsal).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from splitvlm.errors import UsageError
from splitvlm.evaluation.answers import Example, read
from splitvlm.model.dtype_choice import faster, measured_times
from splitvlm.model.loading import read_spec
from splitvlm.scenes import TRAINED_DOMAINS, ask, draw
from splitvlm.scenes.questions import training_seed
from splitvlm.variants.answer_lesson import AnswerLesson, asked_of
from splitvlm.variants.teacher import load_parent
from splitvlm.variants.training import Checkpoint, Schedule, train

QUESTIONS_A_PICTURE = 10
DOMAIN = "orchard"  # drawn, and known to the tokenizer, but nothing was trained on it
FIRST_RUN = 500  # of the seeds of drawn pictures: runs that no training of the embedded model has drawn
LINEARS = [
    "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "proj",  # of the tower and the connector
    "o_proj", "gate_proj", "up_proj", "down_proj",  # of the language model
]  # fmt: skip
"""Names of the linear layers of SmolVLM's and Idefics3's towers, connectors and language models."""


@dataclass(frozen=True)
class Tuning:
    """Holds what is asked for. Without `data` the embedded model learns drawn orchards."""

    model: str
    out: Path
    data: Path | None = None
    kept_data: Path | None = None  # examples of what the model knows; None: drawn scenes for the embedded model
    pictures: int = 400
    rank: int = 3
    steps: int = 600
    rate: float = 2e-3
    seed: int = 0
    device: str = "cpu"


def tune(tuning: Tuning) -> dict[str, object]:
    """Trains an adapter and writes it to `out`; returns what was trained. Raises UsageError, Cancelled."""
    from peft import LoraConfig, get_peft_model

    new, known = _examples(tuning)
    model, processor = load_parent(tuning.model, tuning.device)
    whole = sum(parameter.numel() for parameter in model.parameters())
    config = LoraConfig(r=tuning.rank, lora_alpha=2 * tuning.rank, target_modules=LINEARS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by names that will change
        torch.manual_seed(tuning.seed)
        adapted: Any = get_peft_model(model, config)
    groups = [asked_of(processor, examples) for examples in (new, known)]
    lesson = AnswerLesson(adapted.base_model.model, groups, tuning.seed)
    checkpoint = Checkpoint(tuning.out.with_name(f"{tuning.out.name}.training") / "checkpoint.pt", _identity(tuning))
    bfloat16 = faster(measured_times(tuning.device)) == "bfloat16"
    schedule = Schedule(tuning.steps, tuning.rate, tuning.seed, weight_decay=0.0, bfloat16=bfloat16)
    losses = train(lesson, schedule, checkpoint, f"Tuning {tuning.model}")
    adapted.peft_config["default"].base_model_name_or_path = tuning.model
    adapted.save_pretrained(tuning.out, save_embedding_layers=False)  # else PEFT asks the Hub about the base
    checkpoint.remove()
    trained = sum(parameter.numel() for parameter in lesson.parameters())
    last = losses[-20:]
    return {
        "adapter": str(tuning.out), "model": f"{tuning.model}+{tuning.out}", "trained_parameters": trained,
        "share": trained / whole, "steps": len(losses), "loss": sum(last) / max(1, len(last)),
    }  # fmt: skip


def drawn_examples(domains: Sequence[str], pictures: int, run: int) -> Iterator[Example]:
    """Yields questions about drawn pictures of some domains in turn, none of which is held out for measuring."""
    for index in range(pictures):
        scene = draw(domains[index % len(domains)], training_seed(run, index))
        for question in ask(scene, training_seed(run, index), QUESTIONS_A_PICTURE):
            yield Example(scene.image, question.text, question.answer, question.kind)


def _examples(tuning: Tuning) -> tuple[list[Example], list[Example]]:
    """Returns the examples of the new domain, and those of what the model knows."""
    embedded = tuning.model == "scenes"
    if tuning.data is None and not embedded:
        raise UsageError(
            f"There is nothing that {tuning.model} could learn.", advice="Name a file of examples: --data."
        )
    run = FIRST_RUN + tuning.seed
    new = (
        drawn_examples((DOMAIN,), tuning.pictures, run)
        if tuning.data is None
        else islice(read(tuning.data), tuning.pictures * QUESTIONS_A_PICTURE)
    )
    known: Iterator[Example] = iter(())
    if tuning.kept_data is not None:
        known = iter(read(tuning.kept_data))
    elif embedded:
        known = drawn_examples(TRAINED_DOMAINS, tuning.pictures, run)
    return list(new), list(known)


def _identity(tuning: Tuning) -> str:
    """Returns all that a training depends on, so that no other one goes on from its checkpoint."""
    return f"{read_spec(tuning.model).weights_hash} {tuning}"
