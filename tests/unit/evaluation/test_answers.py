"""The engine of `splitvlm evaluate`: what counts as right, what is compared with, and what bad data is told."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from splitvlm.errors import UsageError
from splitvlm.evaluation import answers
from splitvlm.evaluation.answers import Example, Outcome
from splitvlm.model.pictures import read_picture
from tests.picture_files import saved


def _picture(shade: int = 0) -> Image.Image:
    return Image.new("RGB", (8, 8), (shade, shade, shade))


@pytest.mark.parametrize(
    ("given", "wanted"), [("Yes.", "yes"), (" 7  cells,2 infected ", "7 cells, 2 infected"), ("TOP left!", "top left")]
)
def test_case_spaces_and_punctuation_do_not_count(given: str, wanted: str) -> None:
    assert Outcome("kind", wanted, given).right


@pytest.mark.parametrize(("given", "wanted"), [("10", "1"), ("3.5", "35"), ("-1", "1"), ("", "no")])
def test_other_answers_are_wrong(given: str, wanted: str) -> None:
    assert not Outcome("kind", wanted, given).right


def test_summary_by_kind() -> None:
    seen = [
        Outcome("count", "1", "1"),
        Outcome("count", "2", "1"),
        Outcome("count", "1", "1"),
        Outcome("is", "no", "no"),
    ]
    blind = [Outcome("count", "1", "2")]
    told = answers.summary(seen, blind)
    assert told["accuracy"] == 0.75
    assert told["majority"] == pytest.approx(0.75)
    assert told["kinds"]["count"] == {
        "accuracy": pytest.approx(2 / 3), "questions": 3, "majority": pytest.approx(2 / 3), "blank": 0.0,
    }  # fmt: skip
    assert told["kinds"]["is"]["blank"] is None


def test_blank_pictures_are_shown_for_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def knows_black(_model: object, _processor: object, images: list[Image.Image], _questions: list[str]) -> list[str]:
        return ["yes" if image.getpixel((0, 0)) == (0, 0, 0) else "no" for image in images]

    monkeypatch.setattr(answers, "generate", knows_black)
    examples = [Example(_picture(), "Is it black?", "yes", "black")] * 100
    steps: list[tuple[int, int]] = []
    processor = SimpleNamespace(tokenizer=SimpleNamespace(all_special_tokens=["<image>"], added_tokens_decoder={}))
    told = answers.measure(
        None, processor, examples, lambda done, in_all: steps.append((done, in_all)), blank_questions=10
    )
    assert (told["questions"], told["blank_questions"]) == (100, 10)
    assert (told["accuracy"], told["blank"]) == (1.0, 0.0)
    assert steps[-1] == (110, 110)


def test_reads_examples_beside_the_file(tmp_path: Path) -> None:
    _picture().save(tmp_path / "a.png")
    lines = [
        {"image": "a.png", "question": "q", "answer": "1"},
        {"image": "a.png", "question": "r", "answer": "2", "kind": "k"},
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    first, second = answers.read(tmp_path / "data.jsonl")
    assert (first.kind, second.kind, second.answer) == (answers.UNNAMED_KIND, "k", "2")
    assert first.image is second.image
    assert len(answers.read(tmp_path / "data.jsonl", most=1)) == 1


TURNED = Image.Exif()
TURNED[0x0112] = 6
GRADIENT = Image.linear_gradient("L").resize((16, 8))
FILES = {
    "phone.jpg": saved(GRADIENT, "JPEG", exif=TURNED),
    "phone.png": saved(GRADIENT, "PNG", exif=TURNED),
    "deep.png": saved(GRADIENT.convert("I;16").point(lambda value: value * 257), "PNG"),
    "clear.png": saved(Image.merge("LA", (Image.new("L", (16, 8)), GRADIENT)), "PNG"),
}


@pytest.mark.parametrize("name", FILES)
def test_pictures_of_data_are_opened_as_nodes_open_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    (tmp_path / "data.jsonl").write_text(json.dumps({"image": name, "question": "q", "answer": "1"}))
    (example,) = answers.read(tmp_path / "data.jsonl")
    assert example.image.tobytes() == read_picture(FILES[name]).tobytes()
    assert example.image.size == ((8, 16) if name.startswith("phone") else (16, 8))
    assert len(set(example.image.convert("L").tobytes())) > 4


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object"),
        ('{"image": "a.png", "question": "q"}', "`answer`"),
        ('{"image": "none.png", "question": "q", "answer": "1"}', "no picture"),
        ('{"image": "data.jsonl", "question": "q", "answer": "1"}', "is not a picture"),
        ('{"image": "a.png", "question": "q", "answer": "1", "kind": 3}', "`kind`"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, told: str) -> None:
    _picture().save(tmp_path / "a.png")
    good = json.dumps({"image": "a.png", "question": "q", "answer": "1"})
    (tmp_path / "data.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(UsageError, match=r"data\.jsonl:2") as caught:
        answers.read(tmp_path / "data.jsonl")
    assert told in str(caught.value)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        answers.read(tmp_path / "data.jsonl")
    (tmp_path / "data.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="no examples"):
        answers.read(tmp_path / "data.jsonl")


def test_shared_pictures_are_seen_once_with_the_same_answers() -> None:
    """`generate` on questions that share pictures gives what each question gives by itself."""
    from splitvlm.model.loading import load_whole
    from splitvlm.scenes import draw

    model, processor = load_whole("scenes")
    seen = []
    model.model.vision_model.register_forward_pre_hook(
        lambda _module, _args, named: seen.append(len(named["pixel_values"])), with_kwargs=True
    )
    first, second = draw("microscopy", 1).image, draw("road", 2).image
    images = [first, second, first]
    questions = ["How many cells are infected?", "Describe the picture.", "Is there a red cell?"]
    together = answers.generate(model, processor, images, questions)
    assert seen == [2]
    alone = [answers.generate(model, processor, [i], [q])[0] for i, q in zip(images, questions, strict=True)]
    assert together == alone


def test_special_tokens_in_a_question_are_refused_with_their_line(tmp_path: Path) -> None:
    from splitvlm.model.loading import load_whole

    _picture().save(tmp_path / "a.png")
    lines = [{"image": "a.png", "question": text, "answer": "b"} for text in ("What is it?", "What is <image>?")]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    model, processor = load_whole("scenes")
    with pytest.raises(
        UsageError, match=r"data\.jsonl:2: A message of the user holds '<image>', which is a special token"
    ):
        answers.measure(model, processor, answers.read(tmp_path / "data.jsonl"))
