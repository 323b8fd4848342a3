"""`splitvlm leak`: what an attacker gets back from each cut and level, as pictures and as answers.

    answered   of the questions that the model answers right about the picture, the share that it answers right about the
               attacker's reconstruction; the floor is what it answers about a blank picture, the top is the picture itself
    psnr_db, ssim   of the reconstruction against the picture as the model sees it

An attacker is trained for each cut and level on some pictures and judged on others (attacker.py says what it knows). What a
stronger one would get back is at least this: the figures are a lower bound of the leak.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from splitvlm.bundle import Bundle
from splitvlm.codec.codec import Codec
from splitvlm.domain import DEVICE, FULL, IMAGE, Cut, CutKind
from splitvlm.errors import UsageError
from splitvlm.evaluation.answers import GREY, Example, Outcome, answers, drawn
from splitvlm.evaluation.leak.attacker import F32, psnr, side, ssim, train
from splitvlm.local_model import LocalBoundary, decode
from splitvlm.model.boundary import HIDDEN, to_tensors
from splitvlm.model.loading import load_whole, read_spec
from splitvlm.model.parts import DevicePart
from splitvlm.model.prompt import Prompt
from splitvlm.settings import ModelChoice
from splitvlm.variants.device_forms import load_forms
from splitvlm.variants.folder import Variant

QUESTION = "What is in the picture?"  # asked while the attacker learns: features up to `tokens` do not depend on it
QUESTIONS_A_PICTURE = 4  # of what `drawn` draws
SHOWN = 4  # pictures in the plot
LEVELS = ("lossless", "int4", "klt3", "klt5", "klt7", "klt8", "webp50")
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Leak:
    cut: Cut
    level: str
    psnr_db: float
    ssim: float
    answered: float
    attack: str  # which attacker was the best; `none` where the picture itself crosses
    shown: tuple[Pixels, ...]


@dataclass(frozen=True)
class Leaks:
    rows: tuple[Leak, ...]
    floor: float  # answered about a blank picture
    questions: int  # of which the model answered right about the picture
    shown: tuple[Pixels, ...]


class _Judge:
    """Holds the model, and the questions that it answers right about the pictures themselves."""

    def __init__(self, model: str, questions: int, seed: int) -> None:
        self._network, self._processor = load_whole(model)
        examples = list(drawn(questions, seed))
        outcomes = self._asked(examples)
        self.right = [example for example, outcome in zip(examples, outcomes, strict=True) if outcome.right]
        if not self.right:
            raise UsageError(f"{model} answers none of {questions} questions right: nothing could be lost.")
        self.images = list({id(example.image): example.image for example in self.right}.values())

    def answered(self, instead: Sequence[Image.Image]) -> float:
        """Returns the share that is still right with these pictures instead of `images`."""
        shown = {id(image): picture for image, picture in zip(self.images, instead, strict=True)}
        outcomes = self._asked([replace(example, image=shown[id(example.image)]) for example in self.right])
        return sum(outcome.right for outcome in outcomes) / len(outcomes)

    def _asked(self, examples: list[Example]) -> list[Outcome]:
        return answers(self._network, self._processor, examples, lambda _: None)


def measure_leak(
    model: str,
    bundle: Bundle,
    cuts: Sequence[str],
    levels: Sequence[str],
    training: int,
    questions: int,
    seed: int,
    progress: Callable[[str], None],
    variant: Variant | None = None,
) -> Leaks:
    """Measures every cut (or those named) at those of `levels` (none: LEVELS) that it has. Raises UsageError.

    An attacker learns from `training` pictures, and `questions` are asked about others. With a `variant` what crosses is what
    that form of the device's part makes, at the cuts that it serves.
    """
    chosen = [cut for cut in _cuts(model, cuts) if cut != DEVICE and (variant is None or cut in variant.cuts)]
    if not chosen:
        form = f"the variant {variant.name}" if variant else "the model"
        raise UsageError(f"At these cuts {form} sends nothing: nothing leaks.", advice="Name another cut.")
    name = variant.name if variant else FULL
    served = {name: chosen}
    part, codec = load_forms(ModelChoice(name=model), served, bundle, [variant] if variant else [])[name]
    known = {level for cut in chosen for level in codec.levels(cut)}
    if unknown := [level for level in levels if level not in known]:
        raise UsageError(
            f"'{unknown[0]}' is no codec level of these cuts.", advice=f"Their levels are {', '.join(sorted(known))}."
        )
    judge = _Judge(model, questions, seed)
    examples = list(drawn(QUESTIONS_A_PICTURE * training, seed + 1))[::QUESTIONS_A_PICTURE]
    training_pictures = [example.image for example in examples]
    seen = [np.asarray(part.picture(image)) for image in judge.images]
    rows = []
    for cut in chosen:
        for level in (level for level in levels or LEVELS if level in codec.levels(cut)):
            progress(f"{cut}/{level}")
            attack, back = _attacked(part, codec, cut, level, training_pictures, judge.images)
            likeness = [(psnr(*pair), ssim(*pair)) for pair in zip(back, seen, strict=True)]
            psnr_db, similar = np.mean(likeness, axis=0).tolist()
            answered = judge.answered([Image.fromarray(pixels) for pixels in back])
            rows.append(Leak(cut, level, psnr_db, similar, answered, attack, tuple(back[:SHOWN])))
    floor = judge.answered([Image.new("RGB", image.size, GREY) for image in judge.images])
    return Leaks(tuple(rows), floor, len(judge.right), tuple(seen[:SHOWN]))


def _attacked(
    part: DevicePart,
    codec: Codec,
    cut: Cut,
    level: str,
    training: Sequence[Image.Image],
    images: Sequence[Image.Image],
) -> tuple[str, list[Pixels]]:
    if cut == IMAGE:
        return "none", [_coded(part, codec, image, level) for image in images]
    features = [_features(part, codec, cut, level, image) for image in training]
    attacker = train(features, [np.asarray(part.picture(image)) for image in training])
    return attacker.lift, [attacker.picture(_features(part, codec, cut, level, image)) for image in images]


def _cuts(model: str, wanted: Sequence[str]) -> list[Cut]:
    spec = read_spec(model)
    cuts = [Cut.parse(text) for text in wanted] or list(spec.cuts())
    for cut in cuts:
        spec.check(cut)
    return cuts


def _coded(part: DevicePart, codec: Codec, image: Image.Image, level: str) -> Pixels:
    return np.asarray(
        decode(codec, IMAGE, LocalBoundary(part, codec, Prompt.about(image, QUESTION), IMAGE).encode(level))
    )


def _features(part: DevicePart, codec: Codec, cut: Cut, level: str, image: Image.Image) -> F32:
    """Returns [T, C] of the picture's tokens, in rows, as the cloud node gets them. Raises UsageError for pictures in tiles."""
    payload = LocalBoundary(part, codec, Prompt.about(image, QUESTION), cut).encode(level)
    hidden = to_tensors(codec.decode(cut, payload))[HIDDEN].float().numpy()
    tokens: F32 = hidden.reshape(-1, hidden.shape[-1])
    if cut.kind is CutKind.LM:
        places = part.prompt_ids(Prompt.about(image, QUESTION)).numpy() == part.model.config.image_token_id
        tokens = tokens[places]
    try:
        side(tokens)
    except ValueError as error:
        raise UsageError(
            f"At the cut {cut} the picture's {error}: the attacker knows pictures in one square piece only.",
            advice="Measure `scenes`, or a model that does not cut pictures into tiles.",
        ) from error
    return tokens


def save_plot(leaks: Leaks, path: Path) -> None:
    """Plots the pictures, and under them what came back at each cut and level."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = [("the picture", leaks.shown)]
    rows += [(f"{leak.cut}\n{leak.level}\n{leak.answered:.0%}", leak.shown) for leak in leaks.rows]
    figure, axes = plt.subplots(len(rows), SHOWN, figsize=(1.7 * SHOWN + 1.2, 1.7 * len(rows)), squeeze=False)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(picture)
        line[0].text(-0.08, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    figure.suptitle("What an attacker gets back, and the share of questions that it still answers", fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.985))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)
