"""Measures how often a model answers right: by kind of question, beside the majority answer and a blank picture.

An answer is right when it equals the wanted one, letter case, spaces and punctuation aside. `majority` is what a model
would reach that always gave the kind's most frequent answer; `blank` what this model reaches when each picture is
replaced by plain grey, on a sample of the questions. Shares are 0..1.

The model and its processor are arguments of `measure`; only `evaluate` loads.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitvlm.domain import Conversation
from splitvlm.errors import UsageError
from splitvlm.files.text import read_json_lines
from splitvlm.model.processors import check_text

if TYPE_CHECKING:
    from PIL.Image import Image

Progress = Callable[[int, int], None]  # questions done, questions in all
BLANK_QUESTIONS = 2_000  # of them are asked again about a blank picture
BATCH = 96  # questions a forward pass
MOST_NEW_TOKENS = 40
GREY = (128, 128, 128)
UNNAMED_KIND = "all"
ADVICE = 'A line is {"image": path, "question": text, "answer": text}.'


@dataclass(frozen=True)
class Example:
    """Holds one question about a picture, with the answer that counts as right."""

    image: Image
    question: str
    answer: str
    kind: str = UNNAMED_KIND
    where: str = ""  # the file and line that it was read from


@dataclass(frozen=True)
class Outcome:
    kind: str
    wanted: str
    answer: str

    @property
    def right(self) -> bool:
        return normalised(self.answer) == normalised(self.wanted)


def normalised(answer: str) -> str:
    """Returns the answer in lower case, with single spaces, punctuation within numbers and words only (`3.5`, `left-hand`)."""
    return " ".join(re.sub(r"[^\w\s.'-]|[.](?=\s|$)", " ", answer.casefold()).split())


def evaluate(
    model: str | Path,
    data: str | Path | None = None,
    questions: int = 20_000,
    seed: int = 0,
    progress: Progress | None = None,
    blank_questions: int = BLANK_QUESTIONS,
) -> dict[str, Any]:
    """Loads the model (any name that `splitvlm.model` knows) and measures it on `data`, or on drawn scenes without it.

    Raises UsageError that names file and line where `data` is not as it should be.
    """
    from splitvlm.model.loading import load_whole

    examples = list(drawn(questions, seed) if data is None else read(Path(data), questions))
    network, processor = load_whole(str(model))
    return {"model": str(model), **measure(network, processor, examples, progress, blank_questions)}


def drawn(questions: int, seed: int, domains: Sequence[str] = ()) -> Iterator[Example]:
    """Yields questions about scenes that no training run has drawn, of some domains or of those that were trained on."""
    from splitvlm.scenes import TRAINED_DOMAINS, held_out

    for scene, question in held_out(questions, seed, tuple(domains) or TRAINED_DOMAINS):
        yield Example(scene.image, question.text, question.answer, question.kind)


def read(path: Path, most: int | None = None) -> list[Example]:
    """Reads the examples of a JSON-lines file: `{"image": path beside the file, "question", "answer", "kind" (optional)}`."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file.", advice=ADVICE)
    pictures: dict[Path, Image] = {}
    examples: list[Example] = []
    for where, entry in islice(read_json_lines(path, "questions"), most):
        examples.append(_example(entry, where, path.parent, pictures))
    if not examples:
        raise UsageError(f"{path}: holds no examples.", advice=ADVICE)
    return examples


def _example(entry: object, where: str, folder: Path, pictures: dict[Path, Image]) -> Example:
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: expected an object, got {type(entry).__name__}.", advice=ADVICE)
    for key in ("image", "question", "answer"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise UsageError(
                f"{where}: `{key}` must be a text that is not empty, got {entry.get(key)!r}.", advice=ADVICE
            )
    kind = entry.get("kind", UNNAMED_KIND)
    if not isinstance(kind, str):
        raise UsageError(f"{where}: `kind` must be a text, got {kind!r}.", advice=ADVICE)
    return Example(_picture(folder / entry["image"], where, pictures), entry["question"], entry["answer"], kind, where)


def _picture(path: Path, where: str, pictures: dict[Path, Image]) -> Image:
    """Returns the picture at that path, opened as nodes open it; questions about one file share one picture."""
    from splitvlm.model.pictures import open_picture

    if path not in pictures:
        try:
            pictures[path] = open_picture(path)
        except UsageError as error:
            raise UsageError(f"{where}: {error.sentence}", advice=error.advice) from error
    return pictures[path]


def measure(
    model: Any,
    processor: Any,
    examples: list[Example],
    progress: Progress | None = None,
    blank_questions: int = BLANK_QUESTIONS,
) -> dict[str, Any]:
    """Returns the figures of `evaluate` for a loaded model; blank pictures are shown for an even sample of the examples."""
    for example in examples:
        with naming(example):
            check_text(processor.tokenizer, Conversation.about(example.question))
    sample = _even_sample(examples, blank_questions)
    in_all = len(examples) + len(sample)
    told = progress or (lambda _done, _in_all: None)
    seen = answers(model, processor, examples, lambda done: told(done, in_all))
    blind = answers(model, processor, _blanked(sample), lambda done: told(len(examples) + done, in_all))
    return summary(seen, blind)


@contextmanager
def naming(example: Example) -> Iterator[None]:
    """Puts the file and line of an example in front of what is wrong with it."""
    try:
        yield
    except UsageError as error:
        where = f"{example.where}: " if example.where else ""
        raise UsageError(f"{where}{error.sentence}", advice=error.advice) from error


def _even_sample(examples: list[Example], most: int) -> list[Example]:
    step = max(1, -(-len(examples) // most)) if most else 0
    return examples[::step] if step else []


def _blanked(examples: Iterable[Example]) -> list[Example]:
    from PIL import Image as images

    sheets: dict[tuple[int, int], Image] = {}
    blanked = []
    for example in examples:
        size = example.image.size
        sheet = sheets.setdefault(size, images.new("RGB", size, GREY))
        blanked.append(Example(sheet, example.question, example.answer, example.kind))
    return blanked


def summary(seen: list[Outcome], blind: list[Outcome]) -> dict[str, Any]:
    """Returns the accuracy in all and by kind. `blank` is None for a kind that the sample did not meet."""
    kinds: dict[str, dict[str, Any]] = {}
    for kind in sorted({outcome.kind for outcome in seen}):
        mine = [outcome for outcome in seen if outcome.kind == kind]
        kinds[kind] = {
            "accuracy": _share(mine),
            "questions": len(mine),
            "majority": _majority(mine) / len(mine),
            "blank": _share([outcome for outcome in blind if outcome.kind == kind]),
        }
    majority = sum(float(entry["majority"]) * entry["questions"] for entry in kinds.values()) / max(1, len(seen))
    return {
        "questions": len(seen), "accuracy": _share(seen), "majority": majority, "blank": _share(blind),
        "blank_questions": len(blind), "kinds": kinds,
    }  # fmt: skip


def _share(outcomes: list[Outcome]) -> float | None:
    return sum(outcome.right for outcome in outcomes) / len(outcomes) if outcomes else None


def _majority(outcomes: list[Outcome]) -> int:
    return Counter(normalised(outcome.wanted) for outcome in outcomes).most_common(1)[0][1]


def answers(model: Any, processor: Any, examples: list[Example], done: Callable[[int], None]) -> list[Outcome]:
    """Returns greedy answers, made in batches, in the order of the examples."""
    outcomes: list[Outcome] = []
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        texts = generate(model, processor, [e.image for e in batch], [e.question for e in batch])
        outcomes += [Outcome(e.kind, e.answer, text) for e, text in zip(batch, texts, strict=True)]
        done(len(outcomes))
    return outcomes


def generate(model: Any, processor: Any, images: list[Image], questions: list[str]) -> list[str]:
    """Returns one greedy answer for each picture and question, by transformers' `generate`.

    A picture that several questions share goes through the vision tower once, where the model allows it.
    """
    import torch

    content = [[{"type": "image"}, {"type": "text", "text": question}] for question in questions]
    prompts = [
        processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        for parts in content
    ]
    processor.tokenizer.padding_side = "left"
    inputs = processor(images=[[image] for image in images], text=prompts, padding=True, return_tensors="pt")
    inputs = inputs.to(model.device)
    with torch.inference_mode(), seen_once(model, images):
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=MOST_NEW_TOKENS)
    texts: list[str] = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


@contextmanager
def seen_once(model: Any, images: list[Image]) -> Iterator[None]:
    """Lets the vision tower see each different picture of the batch once while this is open, not once a question.

    For models whose `get_image_features` takes pictures as (batch, pictures, ...) and gives one tensor for each row of
    the batch (SmolVLM and Idefics3); the others go their usual way. The answers are the same.
    """
    inner: Any = getattr(model, "model", None)
    distinct = {key: index for index, key in enumerate(dict.fromkeys(map(id, images)))}
    rows = [distinct[id(image)] for image in images]
    if len(distinct) == len(rows) or getattr(model.config, "model_type", "") not in ("smolvlm", "idefics3"):
        yield
        return
    first = [rows.index(index) for index in range(len(distinct))]
    inner_features, replaced = inner.get_image_features, vars(inner).get("get_image_features")

    def features(pixel_values: Any, pixel_attention_mask: Any = None, **others: Any) -> Any:
        mask = None if pixel_attention_mask is None else pixel_attention_mask[first]
        output = inner_features(pixel_values[first], mask, **others)
        output.pooler_output = [output.pooler_output[row] for row in rows]
        return output

    inner.get_image_features = features
    try:
        yield
    finally:
        if replaced is None:
            del inner.get_image_features
        else:
            inner.get_image_features = replaced
