"""Holds what the kinds that train a tower share: the teacher of a making, its training by the options, its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from splitvlm.model.dtype_choice import faster, measured_times
from splitvlm.node.progress import show_progress
from splitvlm.variants.making import Making, Option
from splitvlm.variants.teacher import Teacher, ask_teacher, load_parent
from splitvlm.variants.tower_lesson import TowerLesson
from splitvlm.variants.training import Checkpoint, Lesson, Schedule, train

OPTIONS: dict[str, Option] = {"steps": 600, "rate": 4e-4, "device": "cpu"}
LAST_STEPS = 20  # whose mean loss the manifest holds


def asked_teacher(making: Making) -> tuple[Any, Teacher]:
    """Returns the parent model, on the device of the option `device`, and the teacher of its tower, with progress on show."""
    model, processor = load_parent(making.model, str(making.options["device"]))
    with show_progress(f"Showing pictures to {making.model}") as progress:
        teacher = ask_teacher(making.model, model, processor, making.data, making.samples, making.seed, progress)
    return model, teacher


def teach(
    making: Making, model: Any, teacher: Teacher, after_step: Callable[[], None] | None = None
) -> dict[str, object]:
    """Trains a model's tower by a making's options, resumably; returns what the manifest says of it. Raises Cancelled."""
    lesson = TowerLesson(model, teacher, making.seed, after_step)
    return learn(making, lesson)


def learn(making: Making, lesson: Lesson) -> dict[str, object]:
    """Trains by a making's options; returns what the manifest says of it. The checkpoint goes at the end. Raises Cancelled."""
    options = making.options
    schedule = Schedule(
        steps=int(options["steps"]),
        rate=float(options["rate"]),
        seed=making.seed,
        bfloat16=faster(measured_times(str(options["device"]))) == "bfloat16",
    )
    checkpoint = Checkpoint(making.folder.with_name(f"{making.name}.training") / "checkpoint.pt", _identity(making))
    losses = train(lesson, schedule, checkpoint, f"Training {making.name}")
    for parameter in lesson.parameters():
        parameter.requires_grad_(False)
    checkpoint.remove()
    last = losses[-LAST_STEPS:]
    return {"steps": schedule.steps, "loss": round(sum(last) / max(1, len(last)), 5)}


def _identity(making: Making) -> str:
    """Returns all that a training depends on, so that no other one goes on from its checkpoint."""
    of_model = (making.bundle.spec.weights_hash, str(making.data), making.samples, making.seed)
    return f"{of_model} {sorted(making.options.items())}"
