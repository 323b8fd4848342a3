"""A model in one process gives the answers of the undivided one where nothing is lost, and counts what would cross."""

from __future__ import annotations

import pytest

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Conversation, Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.local_model import LocalModel, decode
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import reference_tokens
from splitvlm.rpc.limits import CHUNK_BYTES
from splitvlm.rpc.request_sizes import step_bytes, upload_bytes
from tests.tiny_models import picture, save

QUESTION = "Is there a lake?"
CUTS = (IMAGE, Cut.parse("vision:2"), TOKENS, Cut.parse("lm:1"), DEVICE)
NUM_TOKENS = 6


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save("scenes-like", tmp_path_factory.mktemp("local") / "model"))


@pytest.fixture(scope="module")
def model(name: str) -> LocalModel:
    return LocalModel.load(name, CUTS)


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_lossless_answers_are_those_of_the_undivided_model(name: str, model: LocalModel, cut: Cut) -> None:
    image = picture(64, 64, 3)
    (expected,) = reference_tokens(name, [Prompt.about(image, QUESTION)], NUM_TOKENS)
    plan = Plan(cut, "none" if cut == DEVICE else "lossless")
    assert list(model.answer(Prompt.about(image, QUESTION), plan, NUM_TOKENS).token_ids) == expected


def test_bytes_are_those_of_payload_question_and_steps(model: LocalModel) -> None:
    image = picture(64, 64)
    rows = {cut: model.answer(Prompt.about(image, QUESTION), Plan(cut, "lossless"), NUM_TOKENS) for cut in CUTS[:-1]}
    for cut, answer in rows.items():
        assert answer.payload_bytes == len(model.boundary(Prompt.about(image, QUESTION), cut).encode("lossless"))
    assert rows[IMAGE].wire_bytes == upload_bytes([rows[IMAGE].payload_bytes], Conversation.about(QUESTION))
    assert rows[TOKENS].wire_bytes == upload_bytes([rows[TOKENS].payload_bytes])
    language = rows[CUTS[3]]
    assert language.wire_bytes > upload_bytes([language.payload_bytes]) + len(language.token_ids) - 1
    device = model.answer(Prompt.about(image, QUESTION), Plan(DEVICE, "none"), NUM_TOKENS)
    assert (device.payload_bytes, device.wire_bytes) == (0, 0)


def test_lossy_levels_cross_as_bytes(model: LocalModel) -> None:
    boundary = model.boundary(Prompt.about(picture(64, 64), QUESTION), TOKENS)
    exact, lossy = (boundary.encode(level) for level in ("lossless", "int2"))
    assert len(lossy) < len(exact) / 4
    restored = decode(model.codec, TOKENS, lossy)
    assert isinstance(restored, dict)
    assert restored["hidden"].shape == boundary.tensors["hidden"].shape
    assert not restored["hidden"].equal(boundary.tensors["hidden"])


def test_large_payloads_go_in_chunks() -> None:
    """At their ends: a frame costs its envelope and its seal."""
    assert upload_bytes([CHUNK_BYTES + 1]) - upload_bytes([CHUNK_BYTES]) > 16
    assert upload_bytes([2 * CHUNK_BYTES + 1]) - upload_bytes([2 * CHUNK_BYTES]) > 16
    assert upload_bytes([100]) - upload_bytes([99]) == 1
    assert upload_bytes([100, 50]) > upload_bytes([150])
    assert step_bytes(100) > 100 + 16


def test_unknown_levels_and_cuts_are_refused(name: str, model: LocalModel) -> None:
    with pytest.raises(UsageError, match="has no codec level 'klt3'"):
        model.answer(Prompt.about(picture(64, 64), QUESTION), Plan(TOKENS, "klt3"))
    shallow = LocalModel.load(name, [IMAGE])
    with pytest.raises(UsageError):
        shallow.boundary(Prompt.about(picture(64, 64), QUESTION), TOKENS)
