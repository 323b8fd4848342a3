"""What answers cost in bytes: this codec against plain quantisers at three cuts, and against pictures. The last line is JSON.

    python benchmarks/codec.py [--questions N] [--jobs J] [--cuts CUT,CUT] [--coders NAME,NAME] [--store FILE] [--plot FILE]

Model: the embedded one, undivided, with a coder put in where the cut would be: what is coded is decoded again before the
rest of the model sees it. Questions: held out, four to a picture. An answer is right when each of its tokens is the likeliest
after the ones before it: then greedy decoding gives that answer, word for word.

Formulas. bytes: mean over pictures of one request's sealed, serialised messages on an open session, under the plan of the
request before: coded hidden states with their header and the prompt's token ids (`codec.encode` for this codec; the same
envelope and prompt around the others'), or the picture file and the question's text. At `lm:k` the states of prompt and
picture, then one message for each token of the answer, at the same level. lost: share right without a coder minus share
right with it, on the same questions; its 95 % interval is 1.96 standard errors of the mean over pictures. "0": the
interval includes zero. "0.5", "1.0": at most so many points lost. A coder's figure is the least mean bytes of any of its
settings that keeps to it; null where none does.

Settings. splitvlm: the levels PLAIN and those of the calibration. per-token: one float16 scale a token, codes of 8 or 4
bits. per-channel: one float16 scale a channel, 8 bits. random drop: a seeded share of tokens is kept and sent with 8 bits a
value, per token; of the others the model sees nothing at `tokens` (masked), and the mean of the kept ones at the other cuts.
All three end in zstandard, level 12. jpeg, webp, avif: Pillow's, quality and picture size as in PICTURES, best effort; a
smaller picture is brought back to the model's size (Lanczos) by the receiver.

Unfairness. A setting that has lost too much after so many pictures, or beside which two others of the same coder have lost
nothing with clearly fewer bytes, is not measured on (codec_run.py, SCREENS). Pictures are drawn, so their statistics are not
those of photographs; this codec was calibrated on drawn pictures of the same kinds (others than these), the picture coders not.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import torch
from codec_coders import (
    Array,
    Coded,
    Setting,
    begin_bytes,
    coders,
    kept_tokens,
    picture_coded,
    picture_settings,
)
from codec_run import Store, run
from codec_scores import LOST, NONE, Score, by_kind, plot, share, summary
from PIL import Image

from splitvlm.bundle import open_bundle
from splitvlm.domain import IMAGE, TOKENS
from splitvlm.model.boundary import HIDDEN
from splitvlm.model.loading import load_whole, middle_cuts
from splitvlm.model.processors import prompt_inputs
from splitvlm.model.prompt import Prompt
from splitvlm.model.threads import use_threads
from splitvlm.rpc.request_sizes import step_bytes
from splitvlm.scenes.batches import IGNORED_LABEL, pack, stack
from splitvlm.scenes.losses import IMAGE_START, normalised
from splitvlm.scenes.network import VISUAL_TOKENS
from splitvlm.scenes.questions import HELD_OUT_SEEDS, QUESTIONS_A_PICTURE, TRAINED, ask, draw
from splitvlm.scenes.scene import SceneQuestion

MODEL = "scenes"
SEED = 3  # of the held-out run: other pictures than those that levels were chosen by

# --- the model with a coder in it ------------------------------------------------------------------------------------


class UndividedModel:
    """Holds the undivided model, and what each request carries beside its hidden states."""

    def __init__(self) -> None:
        use_threads(1)
        self.model, self.processor = load_whole(MODEL)
        self.tokenizer = self.processor.tokenizer
        self.codec = open_bundle(MODEL).codec
        _, self.vision, _, self.lm = middle_cuts(MODEL)
        self.empty = len(self.codec.encode(TOKENS, {HIDDEN: np.zeros((0, 1), np.float32)}, "lossless"))

    def measure(self, numbers: range, alive: set[Setting]) -> dict[Setting, Score]:
        """Returns the scores of the pictures of these numbers; the setting ("", "none", "") is the model without a coder."""
        pictures = [draw(TRAINED[n % len(TRAINED)], HELD_OUT_SEEDS + SEED * 2**28 + n) for n in numbers]
        asked = [
            ask(p, np.random.default_rng([97, n]), QUESTIONS_A_PICTURE) for p, n in zip(pictures, numbers, strict=True)
        ]
        self.asked = asked
        images = [picture.image for picture in pictures]
        ids = [self.prompt_bytes(image, questions) for image, questions in zip(images, asked, strict=True)]
        scores: dict[Setting, Score] = defaultdict(Score)

        def note(setting: Setting, sizes: list[float], right: list[list[bool]]) -> None:
            scores[setting].bytes += sizes
            scores[setting].right += right

        def with_prompt(sizes: list[float]) -> list[float]:
            return [begin_bytes(size + more) for size, more in zip(sizes, ids, strict=True)]

        middle = self._lower(images)
        tokens = self._upper(middle)
        note(NONE, [0.0] * len(images), self.answers(tokens, asked))
        seeds = list(numbers)
        for setting, code in coders(self.codec, self.vision).items():
            if setting in alive:
                sizes, back = self._through(code, middle, seeds, setting)
                note(setting, with_prompt(sizes), self.answers(self._upper(back), asked))
        for setting, code in coders(self.codec, TOKENS).items():
            if setting in alive:
                sizes, back = self._through(code, tokens, seeds, setting)
                note(setting, with_prompt(sizes), self.answers(back, asked, self._hidden_from(setting, seeds)))
        for setting, code in coders(self.codec, self.lm).items():
            if setting in alive:
                note(setting, *self._through_language(code, tokens, asked, seeds, setting))
        for setting, kind, quality, edge in picture_settings():
            if setting in alive:
                coded = [picture_coded(image, kind, quality, edge) for image in images]
                sizes = [
                    float(np.mean([begin_bytes(size, question.text) for question in questions]))
                    for (size, _), questions in zip(coded, asked, strict=True)
                ]
                right = self.answers(self._upper(self._lower([image for _, image in coded])), asked)
                note(setting, sizes, right)
        return scores

    def prompt_bytes(self, image: Image.Image, questions: list[SceneQuestion]) -> float:
        """Returns the mean bytes of a prompt's token ids as they cross beside the hidden states."""
        sizes = []
        for question in questions:
            ids = prompt_inputs(self.processor, Prompt.about(image, question.text))["input_ids"][0]
            own = self.codec.basis(TOKENS).template.encode(ids.tolist())
            assert own is not None, "a prompt of another template"
            sizes.append(len(own))
        return float(np.mean(sizes))

    @torch.no_grad()
    def _lower(self, images: list[Image.Image]) -> torch.Tensor:
        """Returns [B, 256, C] after the tower's lower half."""
        pixels = normalised(torch.from_numpy(np.stack([np.asarray(image) for image in images])))
        tower = self.model.model.vision_model
        states = tower.embeddings(
            pixel_values=pixels, patch_attention_mask=torch.ones(len(images), 16, 16, dtype=torch.bool)
        )
        for layer in tower.encoder.layers[: self.vision.layers]:
            states = _first(layer(states, None))
        lower: torch.Tensor = states
        return lower

    @torch.no_grad()
    def _upper(self, states: torch.Tensor) -> torch.Tensor:
        """Returns [B, 64, D], the visual tokens."""
        tower = self.model.model.vision_model
        for layer in tower.encoder.layers[self.vision.layers :]:
            states = _first(layer(states, None))
        tokens: torch.Tensor = self.model.model.connector(tower.post_layernorm(states))
        return tokens

    def tokens_of(self, images: list[Image.Image]) -> torch.Tensor:
        """Returns [B, 64, D], the visual tokens of pictures."""
        return self._upper(self._lower(images))

    def _through(
        self, code: Callable[[Array, int], Coded], states: torch.Tensor, seeds: list[int], setting: Setting
    ) -> tuple[list[float], torch.Tensor]:
        coded = [code(state.numpy(), seed) for state, seed in zip(states, seeds, strict=True)]
        own_header = 0 if setting.coder == "splitvlm" else self.empty
        back = torch.from_numpy(np.stack([restored for _, restored in coded]).astype(np.float32))
        return [float(size + own_header) for size, _ in coded], back

    def _hidden_from(self, setting: Setting, seeds: list[int]) -> torch.Tensor | None:
        """Which visual tokens (B, 64) the model must not see."""
        if not setting.coder.startswith("random"):
            return None
        share = float(setting.name.rstrip("%")) / 100
        hidden = torch.ones(len(seeds), VISUAL_TOKENS, dtype=torch.bool)
        for row, seed in enumerate(seeds):
            hidden[row, torch.from_numpy(kept_tokens(VISUAL_TOKENS, share, seed))] = False
        return hidden

    @torch.no_grad()
    def answers(
        self, tokens: torch.Tensor, asked: list[list[SceneQuestion]], hidden: torch.Tensor | None = None
    ) -> list[list[bool]]:
        packed = [pack(self.tokenizer, questions) for questions in asked]
        ids, positions, labels, mask = stack(packed, self.tokenizer.pad_token_id)
        if hidden is not None:
            mask = mask.clone()
            mask[:, 0, :, IMAGE_START : IMAGE_START + VISUAL_TOKENS] &= ~hidden[:, None]
            mask |= torch.eye(mask.shape[-1], dtype=torch.bool)
        right = self._right(tokens, ids, positions, labels, mask)
        rows = []
        for row, (sequence, questions) in enumerate(zip(packed, asked, strict=True)):
            blocks = torch.tensor(sequence.blocks)
            rows.append([bool(right[row, : len(blocks)][blocks == k].all()) for k in range(1, len(questions) + 1)])
        return rows

    def _right(
        self, tokens: torch.Tensor, ids: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        words = self.model.get_input_embeddings()(ids)
        after = IMAGE_START + VISUAL_TOKENS
        embedded = torch.cat([words[:, :IMAGE_START], tokens, words[:, after:]], dim=1)
        barred = torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)
        states = self.model.model.text_model(
            inputs_embeds=embedded, attention_mask=barred, position_ids=positions, use_cache=False
        ).last_hidden_state
        right: torch.Tensor = (self.model.lm_head(states).argmax(-1) == labels) | (labels == IGNORED_LABEL)
        return right

    @torch.no_grad()
    def _through_language(
        self, code: Callable[[Array, int], Coded], tokens: torch.Tensor, asked: list[list[SceneQuestion]], seeds: list[int],
        setting: Setting,
    ) -> tuple[list[float], list[list[bool]]]:  # fmt: skip
        """Asks each question by itself: the states of its prompt are coded together, those of each answer token alone."""
        flat = [(row, question) for row, questions in enumerate(asked) for question in questions]
        packed = [pack(self.tokenizer, [question]) for _, question in flat]
        ids, positions, labels, mask = stack(packed, self.tokenizer.pad_token_id)
        rows = torch.tensor([row for row, _ in flat])
        sizes = np.zeros(len(flat))
        header = 0 if setting.coder == "splitvlm" else self.empty

        def coded(_module: Any, _arguments: Any, output: Any) -> Any:
            states = _first(output)
            back = states.clone()
            for index, sequence in enumerate(packed):
                prompt = next(i for i, label in enumerate(sequence.labels) if label != IGNORED_LABEL) + 1
                for start, stop in [(0, prompt), *((i, i + 1) for i in range(prompt, len(sequence.ids)))]:
                    size, restored = code(states[index, start:stop].numpy(), seeds[int(rows[index])])
                    sizes[index] += step_bytes(size + header) if start else begin_bytes(size + header)
                    back[index, start:stop] = torch.from_numpy(restored.astype(np.float32))
            return (back, *output[1:]) if isinstance(output, tuple) else back

        hook = self.model.model.text_model.layers[self.lm.layers - 1].register_forward_hook(coded)
        try:
            right = self._right(tokens[rows], ids, positions, labels, mask).all(dim=1)
        finally:
            hook.remove()
        answers: list[list[bool]] = [[] for _ in asked]
        for index, (row, _) in enumerate(flat):
            answers[row].append(bool(right[index]))
        means = [float(sizes[(rows == row).numpy()].mean()) for row in range(len(asked))]
        return means, answers


def _first(output: Any) -> torch.Tensor:
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


# --- the run ---------------------------------------------------------------------------------------------------------


@functools.cache
def _bench() -> UndividedModel:
    return UndividedModel()


def _work(numbers: range, alive: set[Setting]) -> tuple[dict[Setting, Score], list[str]]:
    bench = _bench()
    scores = bench.measure(numbers, alive)
    return dict(scores), [question.kind for questions in bench.asked for question in questions]


def everything() -> set[Setting]:
    codec = open_bundle(MODEL).codec
    _, vision, _, lm = middle_cuts(MODEL)
    of_features = [setting for cut in (vision, TOKENS, lm) for setting in coders(codec, cut)]
    return {*of_features, *(setting for setting, *_ in picture_settings())}


def _chosen(settings: set[Setting], part: str, names: str | None, parser: argparse.ArgumentParser) -> set[Setting]:
    """Returns those whose cut or coder is among the names. Ends the program where there are none of a name."""
    known = sorted({getattr(setting, part) for setting in settings})
    wanted = names.split(",") if names else known
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        parser.error(f"no such {part} as {', '.join(unknown)}. There are: {', '.join(known)}.")
    return {setting for setting in settings if getattr(setting, part) in wanted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--questions", type=int, default=5000)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--cuts", help="of image, vision:k, tokens, lm:k those to measure")
    parser.add_argument("--coders", help="of splitvlm, jpeg, ... those to measure")
    parser.add_argument("--store", type=Path, help="file of what was measured: a run that was stopped goes on")
    parser.add_argument("--plot", type=Path, default=Path("out/codec.png"))
    options = parser.parse_args()
    settings = everything()
    for option, part in (("cuts", "cut"), ("coders", "coder")):
        settings = _chosen(settings, part, getattr(options, option), parser)
    pictures = math.ceil(options.questions / QUESTIONS_A_PICTURE)
    about = {
        "seed": SEED,
        "codec": open_bundle(MODEL).codec.hash,
        "settings": sorted(" ".join(astuple(setting)) for setting in settings),
    }
    scores, kinds = run(_work, pictures, options.jobs, settings, Store(options.store, about))
    cuts, rows = summary(scores)
    for row in rows:
        print(f"{row['cut']:9} {row['coder']:27} {row['setting']:14} {row['bytes']:10.1f} bytes  "
              f"lost {100 * row['lost']:6.2f} +- {100 * row['half']:.2f} points")  # fmt: skip
    plot(rows, share(scores[NONE]), options.plot)
    best = {key: min((c[key] for c in cuts.get(str(IMAGE), {}).values() if c[key]), default=None) for key in LOST}
    mine = cuts.get(str(TOKENS), {}).get("splitvlm", dict.fromkeys(LOST))
    ratio = {key: round(best[key] / mine[key], 2) if best[key] and mine[key] else None for key in LOST}
    result = {
        "benchmark": "codec", "questions": len(kinds), "accuracy": round(share(scores[NONE]), 4), "cuts": cuts,
        "best_picture_over_tokens": ratio,
        **{f"kinds_lost_at_{lost}": by_kind(lost, scores, kinds, cuts, rows) for lost in ("0.5", "1.0")},
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
