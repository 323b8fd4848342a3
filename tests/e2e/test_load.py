"""`splitvlm load` against a node that it starts, at a cut of each kind."""

import json
from pathlib import Path

import pytest

from tests.forked import splitvlm


@pytest.mark.parametrize(
    ("plan", "loop"),
    [
        ("image/webp50", ["--temperature", "1.5", "--top-p", "0.9", "--seed", "3"]),
        ("tokens/int4", ["--rate", "50"]),
        ("lm:1/int8", ["--answer-tokens", "2:6", "--temperature", "2"]),
    ],
)
def test_every_request_is_answered_and_counted(plan: str, loop: list[str], tmp_path: Path) -> None:
    result_file, picture = tmp_path / "load.json", tmp_path / "load.png"
    arguments = ["--plan", plan, "--devices", "3", "--requests", "9", "--goodput", "e2e:60000", *loop]
    done = splitvlm("load", "--json", str(result_file), "--plot", str(picture), *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads(result_file.read_text())
    assert result["answered"] == result["requests"] == 9
    assert result["failed"] == {}
    assert result["goodput_share"] == 1.0
    assert result["output_tokens"] >= 9
    assert result["bytes_sent_per_request"] > 50
    assert 0 < result["ttft_ms"]["p50"] <= result["e2e_ms"]["p99"]
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--plan", "device"], "nothing is sent"),
        (["--plan", "vision:99"], "has no cut vision:99"),
        (["--plan", "tokens/nix"], "nix"),
        (["--answer-tokens", "0"], "how long answers may be"),
        (["--goodput", "x"], "objective"),
        (["--dtype", "int3"], "not a dtype"),
        (["--temperature", "1e9"], "temperature is 1e+09, but must be 0 (greedy), or from 0.01 to 100"),
        (["--top-p", "nan"], "top_p is nan, but must be from 1e-06 to 1"),
    ],
)
def test_wrong_arguments_get_a_sentence(arguments: list[str], sentence: str) -> None:
    done = splitvlm("load", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert "Starting" not in done.stderr
