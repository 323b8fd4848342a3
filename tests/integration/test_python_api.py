"""The Python API against a whole edge node: with and without an event loop, in all forms of images."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import splitvlm
from splitvlm.client import Options
from splitvlm.client.messages import ChatMessage, asked, chat, image_file
from splitvlm.domain import ImagePart, Speaker, TextPart
from splitvlm.errors import PeerUnavailable, UsageError
from splitvlm.model.pictures import read_picture
from tests.edge import QUESTION, Node, edge_node
from tests.nodes import until
from tests.samples import PICTURE, tiny_model


@pytest.fixture
async def node(tmp_path: Path):  # type: ignore[no-untyped-def]
    async with edge_node(tmp_path) as one:
        yield one


def address_of(node: Node) -> str:
    return node.client.peer.rpartition(" ")[2]


def test_importing_splitvlm_imports_hardly_anything() -> None:
    heavy = "{'torch', 'grpc', 'numpy', 'PIL', 'pydantic', 'transformers'}"
    code = f"import sys, splitvlm; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    code = f"import sys, splitvlm; splitvlm.connect; print(sorted(({heavy} - {{'grpc'}}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


async def test_an_answer_comes_in_pieces_and_ends_with_a_report(node: Node, tmp_path: Path) -> None:
    async with splitvlm.connect_async(address_of(node), keys=tmp_path / "keys" / "app") as vlm:
        answer = vlm.ask(PICTURE, QUESTION, max_new_tokens=4, plan="tokens/lossless")
        with pytest.raises(UsageError, match="no report yet"):
            _ = answer.report
        pieces = [piece async for piece in answer]
        again = vlm.chat([{"role": "user", "content": [PICTURE, QUESTION]}], max_new_tokens=4, plan="tokens/lossless")
        assert await again.read() == "".join(pieces) == answer.text
    assert answer.plan == answer.report.plan == "tokens/lossless"
    assert answer.report.token_ids == again.report.token_ids
    assert answer.report.bytes_sent > 0
    assert answer.report.total_s >= answer.report.first_token_s > 0
    assert answer.report.seed is None


async def test_a_program_without_an_event_loop_gets_the_same(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    PICTURE.save(file)

    def program() -> list[str]:
        with splitvlm.connect(address_of(node), keys=str(tmp_path / "keys" / "app")) as vlm:
            texts = []
            for image in (file, str(file), file.read_bytes(), PICTURE, np.asarray(PICTURE)):
                answer = vlm.ask(image, QUESTION, max_new_tokens=4, plan="tokens/lossless")
                assert "".join(answer) == answer.text == answer.read()
                texts.append(answer.text)
            drawn = vlm.ask(file, QUESTION, temperature=1.0, seed=5, max_new_tokens=4, plan="tokens/lossless")
            drawn.read()
            assert drawn.report.seed == 5
            with pytest.raises(UsageError, match="temperature"):
                vlm.ask(file, QUESTION, temperature=-1).read()
            return texts

    texts = await asyncio.to_thread(program)
    assert len(set(texts)) == 1


async def test_leaving_an_answer_cancels_it(node: Node, tmp_path: Path) -> None:
    [cloud] = node.clouds
    async with splitvlm.connect_async(address_of(node), keys=tmp_path / "keys" / "app") as vlm:
        answer = vlm.ask(PICTURE, QUESTION, max_new_tokens=40, plan="tokens/lossless")
        async for _ in answer:
            break
        await answer.aclose()
        await until(lambda: cloud.worker.runtime.admission.working_bytes == 0)


async def test_nobody_there_is_said_at_once(tmp_path: Path) -> None:
    def program() -> None:
        with splitvlm.connect("127.0.0.1:1", plaintext=True):
            pass

    with pytest.raises(PeerUnavailable):
        await asyncio.to_thread(program)


async def test_a_model_in_the_same_process_answers_as_nodes_do(node: Node, tmp_path: Path) -> None:
    async with splitvlm.connect_async(address_of(node), keys=tmp_path / "keys" / "app") as vlm:
        far = vlm.ask([PICTURE, PICTURE], QUESTION, max_new_tokens=4, plan="tokens/lossless")
        await far.read()
        wishes: Options = {"temperature": 5.0, "seed": 3, "max_new_tokens": 6}
        drawn = vlm.chat([{"role": "user", "content": QUESTION}], plan="tokens/lossless", **wishes)
        await drawn.read()
    with splitvlm.local(tiny_model("scenes-like"), plan="tokens/lossless") as model:
        near = model.ask([PICTURE, PICTURE], QUESTION, max_new_tokens=4)
        assert near.report.token_ids == far.report.token_ids
        assert near.report.finish_reason == far.report.finish_reason
        assert near.report.bytes_sent > 0
        again = model.chat([{"role": "user", "content": QUESTION}], **wishes)
        assert again.report.token_ids == drawn.report.token_ids
        assert "".join(again) == again.read() == again.text
        if len(again.text) > 2:
            cut = model.chat([{"role": "user", "content": QUESTION}], stop=[again.text[1:2]], **wishes)
            assert cut.text == again.text[: again.text.index(again.text[1:2])]


def test_messages_keep_texts_and_images_in_their_order() -> None:
    messages: list[ChatMessage] = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [PICTURE, "Left.", b"file", "Right?"]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Why?"},
    ]
    conversation, files = chat(messages)
    assert [message.speaker for message in conversation.messages][:2] == [Speaker.SYSTEM, Speaker.USER]
    parts = conversation.messages[1].parts
    assert parts == (ImagePart(), TextPart("Left."), ImagePart(), TextPart("Right?"))
    assert files[1] == b"file"
    assert np.array_equal(np.asarray(read_picture(files[0])), np.asarray(PICTURE))
    both, files = asked([b"a", b"b"], "Same?")
    assert (both.num_images, files) == (2, [b"a", b"b"])


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (3, "A int is no image"),
        (Path("/none.png"), "Cannot read the picture"),
        (np.zeros((4, 4), np.uint8), "An array of shape"),
        (np.zeros((4, 4, 3)), "type float64 is no image"),
        (np.zeros((0, 4, 3), np.uint8), "is no image"),
    ],
)
def test_what_is_no_image_is_refused(image: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        image_file(image)  # type: ignore[arg-type]


def test_a_wrong_role_is_refused() -> None:
    with pytest.raises(UsageError, match="There is no role 'tool'"):
        chat([{"role": "tool", "content": "x"}])  # type: ignore[typeddict-item]


def test_pictures_of_other_modes_are_coded_too() -> None:
    assert read_picture(image_file(PICTURE.convert("L"))).mode == "RGB"
    buffer = io.BytesIO()
    PICTURE.save(buffer, "JPEG")
    assert image_file(buffer.getvalue()) == buffer.getvalue()
