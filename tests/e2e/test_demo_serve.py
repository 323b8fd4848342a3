"""`splitvlm demo --serve` as a process, asked by the unmodified openai client, by `splitvlm ask` and by `splitvlm chat`."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema
import openai
import pytest
from PIL import Image

from splitvlm.scenes import MODEL_DIR, ask, draw
from tests.forked import splitvlm

pytestmark = [
    pytest.mark.timeout(600),  # on a slow machine
    pytest.mark.skipif(not (MODEL_DIR / "model.safetensors").exists(), reason="the embedded model is missing"),
]
COMMAND = ("demo", "--serve", "--slowdown", "1", "--trace", "constant:20mbit")


@dataclass(frozen=True)
class Demo:
    url: str
    address: str
    keys: str

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key="none", timeout=120.0)


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    process = subprocess.Popen([sys.executable, "-m", "splitvlm.cli", *COMMAND], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "--keys" in line:
            break
    try:
        [url] = re.findall(r"http://\S+/v1", said)
        [(address, keys)] = re.findall(r"--edge (\S+) --keys (\S+)", said)
        yield Demo(url, address, keys)
    finally:
        process.send_signal(signal.SIGINT)  # as Ctrl-C does
        code = process.wait(60)
    assert code == 0


def shown(image: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def user(*content: Any) -> dict[str, Any]:
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return {"role": "user", "content": parts}


SCENE = draw("microscopy", 5)
QUESTION = ask(SCENE, 5)[0].text
ALARM: dict[str, Any] = {
    "type": "object",
    "properties": {"person": {"type": "boolean"}, "threat": {"enum": ["none", "low", "high"]}},
    "required": ["person", "threat"],
    "additionalProperties": False,
}


def test_the_openai_client_streams_about_one_image_and_two_and_goes_on(demo: Demo) -> None:
    create: Any = demo.client.chat.completions.create
    one = user(shown(SCENE.image), QUESTION)
    chunks = list(create(model="scenes", messages=[one], stream=True, stream_options={"include_usage": True}))
    answer = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert answer
    assert chunks[-1].usage.prompt_tokens_details.image_tokens > 0
    assert chunks[-1].splitvlm["plan"]
    two = user(shown(SCENE.image), shown(draw("aerial", 2).image), "Which of them has a lake?")
    assert create(model="scenes", messages=[two], max_tokens=4).usage.prompt_tokens > chunks[-1].usage.prompt_tokens
    turns = [one, {"role": "assistant", "content": answer}, user("And the infected ones?")]
    second = create(model="scenes", messages=turns, max_tokens=4)
    assert second.usage.prompt_tokens > chunks[-1].usage.prompt_tokens


def test_a_seed_repeats_an_answer_and_a_stop_string_ends_it(demo: Demo) -> None:
    def drawn(seed: int, **more: Any) -> Any:
        create: Any = demo.client.chat.completions.create
        messages = [user(shown(SCENE.image), QUESTION)]
        reply = create(model="scenes", messages=messages, temperature=30.0, seed=seed, max_tokens=12, **more)
        return reply.choices[0].message.content

    first = drawn(1)
    assert drawn(1) == first != drawn(2)
    middle = first[len(first) // 2]
    assert drawn(1, stop=middle) == first[: first.index(middle)]


def test_an_answer_under_a_schema_is_valid_and_choices_have_probabilities(demo: Demo) -> None:
    create: Any = demo.client.chat.completions.create
    messages = [user(shown(SCENE.image), "Describe the picture.")]
    form = {"type": "json_schema", "json_schema": {"name": "alarm", "schema": ALARM}}
    for seed in range(3):
        reply = create(
            model="scenes", messages=messages, response_format=form, temperature=5.0, seed=seed, max_tokens=100
        )
        assert reply.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(reply.choices[0].message.content), ALARM)
    choice = {"structured_outputs": {"choice": ["yes", "no"]}}
    chosen = create(model="scenes", messages=messages, extra_body=choice, logprobs=True, top_logprobs=2)
    text = chosen.choices[0].message.content
    assert text in ("yes", "no")
    assert sum(chosen.splitvlm["choices"].values()) == pytest.approx(1.0)
    assert "".join(token.token for token in chosen.choices[0].logprobs.content).strip() == text


def test_errors_are_the_client_s_own(demo: Demo) -> None:
    create: Any = demo.client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="The model 'gpt-4o' is not served here"):
        create(model="gpt-4o", messages=[user("Hello?")])
    with pytest.raises(openai.BadRequestError, match="too long"):
        create(model="scenes", messages=[user("word " * 5_000)])


def test_the_same_node_answers_ask_and_chat(demo: Demo, tmp_path: Any) -> None:
    picture = tmp_path / "picture.png"
    SCENE.image.save(picture)
    where = ("--edge", demo.address, "--keys", demo.keys)
    asked = splitvlm("ask", str(picture), QUESTION, *where, "-v")
    assert (asked.returncode, bool(asked.stdout.strip())) == (0, True), asked.stderr
    command = [sys.executable, "-m", "splitvlm.cli", "chat", str(picture), *where, "-v"]
    lines = f"{QUESTION}\nAnd the infected ones?\n/quit\n"
    chatted = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120, check=False)
    assert chatted.returncode == 0, chatted.stderr
    first, second = chatted.stdout.splitlines()
    assert (first, bool(second)) == (asked.stdout.strip(), True)
    assert chatted.stderr.count("prompt tokens cached") == 2
