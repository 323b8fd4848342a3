"""What answers cost in bytes: this codec against plain quantisers at three cuts, and against pictures. The last line is JSON.

    python benchmarks/codec.py [--questions N] [--jobs J] [--plot FILE]

Model: the embedded one, undivided, with a coder put in where the cut would be: what is coded is decoded again before the
rest of the model sees it. Questions: held out, four to a picture. An answer is right when each of its tokens is the likeliest
after the ones before it: then greedy decoding gives that answer, word for word.

Formulas. bytes: mean over pictures of one request's payload, coded hidden states with their header and the prompt's token ids
(`codec.encode` for this codec; the same envelope around the others'), or the picture file and the prompt's text, as they are
before sealing; sealing and framing add the same to each and are left out. At `lm:k` the states of prompt and picture; those
of each answer token follow at the same level, and their bytes are counted too. lost: share right without a coder minus
share right with it, on the same questions; its 95 % interval is 1.96 standard errors of the mean over pictures. "0": the
interval includes zero. "0.5", "1.0": at most so many points lost. A coder's figure is the least mean bytes of any of its
settings that keeps to it; null where none does.

Settings. splitvlm: the levels PLAIN and those of the calibration. per-token: one float16 scale a token, codes of 8 or 4
bits. per-channel: one float16 scale a channel, 8 bits. random drop: a seeded share of tokens is kept and sent with 8 bits a
value, per token; of the others the model sees nothing at `tokens` (masked), and the mean of the kept ones at the other cuts.
All three end in zstandard, level 12. jpeg, webp, avif: Pillow's, quality and picture size as in PICTURES, best effort; a
smaller picture is brought back to the model's size (Lanczos) by the receiver.

Unfairness. A setting that has lost more than SCREEN points after SCREENED pictures is not measured on. Pictures are drawn, so
their statistics are not those of photographs; this codec was calibrated on drawn pictures of the same kinds (others than
these), which the picture coders were not.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import math
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from PIL import Image

from splitvlm.calibration import codec_of
from splitvlm.codec.codec import Codec
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.domain import IMAGE, TOKENS, Cut
from splitvlm.model.boundary import HIDDEN
from splitvlm.model.loading import load_whole, middle_cuts
from splitvlm.scenes.batches import ASIDE, PREFIX, pack, stack
from splitvlm.scenes.lessons import IMAGE_START, normalised
from splitvlm.scenes.network import VISUAL_TOKENS
from splitvlm.scenes.questions import HELD_OUT_SEEDS, QUESTIONS_A_PICTURE, TRAINED, ask, draw
from splitvlm.scenes.scene import EDGE, Question

MODEL = "scenes"
SEED = 3  # of the held-out run: other pictures than those that levels were chosen by
CHUNK = 12  # pictures a forward pass
SCREENED, SCREEN = 96, 0.03
PLAIN = ("int4", "int3", "int2")  # levels of this codec that need no calibration
KEPT = (0.9, 0.75, 0.5)
PICTURES = {
    "jpeg": (75, 50, 30, 20, 12),
    "webp": (75, 50, 25, 10, 1),
    "avif": (55, 45, 35, 25, 15),
}
SCALES = (1.0, 0.625, 0.375)
LOST = ("0", "0.5", "1.0")
Array = np.ndarray[Any, Any]
Coded = tuple[int, Array]  # bytes, what is restored


@dataclass(frozen=True)
class Setting:
    cut: str
    coder: str
    name: str


@dataclass
class Score:
    """By picture: bytes, and whether each question was answered right."""

    bytes: list[float] = field(default_factory=list)
    right: list[list[bool]] = field(default_factory=list)


# --- coders of an array [T, C] ---------------------------------------------------------------------------------------


@functools.cache
def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=12, write_content_size=False, write_checksum=False)


def squeezed(data: bytes) -> int:
    return len(_compressor().compress(data))


def uniform(x_TC: Array, bits: int, axis: int) -> Coded:
    """Symmetric codes with one float16 scale along `axis`."""
    top = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(x_TC).max(axis=axis, keepdims=True) / top, 1e-6).astype(np.float16).astype(np.float32)
    codes = np.clip(np.round(x_TC / scale), -top - 1, top).astype(np.int8)
    raw = codes.tobytes()
    if bits == 4:
        nibbles = (codes.reshape(-1) & 15).astype(np.uint8)
        raw = ((nibbles[::2] << 4) | nibbles[1::2]).tobytes()
    return squeezed(raw) + squeezed(scale.astype(np.float16).tobytes()), codes * scale


def kept_tokens(num_tokens: int, share: float, seed: int) -> Array:
    return np.sort(np.random.default_rng(seed).permutation(num_tokens)[: max(1, round(share * num_tokens))])


def dropped(x_TC: Array, share: float, seed: int) -> Coded:
    """Its kept tokens follow from the seed: they cost nothing."""
    kept = kept_tokens(len(x_TC), share, seed)
    size, restored = uniform(x_TC[kept], 8, axis=1)
    whole = np.broadcast_to(restored.mean(axis=0), x_TC.shape).copy()
    whole[kept] = restored
    return size, whole


def own(x_TC: Array, codec: Codec, cut: Cut, level: str) -> Coded:
    data = codec.encode(cut, {HIDDEN: torch.from_numpy(np.ascontiguousarray(x_TC))}, level)
    return len(data), codec.decode(cut, data)[HIDDEN].numpy()


def coders(codec: Codec, cut: Cut) -> dict[Setting, Callable[[Array, int], Coded]]:
    """All settings at a cut of features: (array, seed) to bytes and what is restored."""
    named: dict[tuple[str, str], Callable[[Array, int], Coded]] = {}
    for level in (*PLAIN, *(level for level in codec.levels(cut) if level in KLT_STEPS)):
        named["splitvlm", level] = functools.partial(
            _seedless, functools.partial(own, codec=codec, cut=cut, level=level)
        )
    for bits in (8, 4):
        code = functools.partial(uniform, bits=bits, axis=1)
        named[f"per-token int{bits} + zstd", f"int{bits}"] = functools.partial(_seedless, code)
    named["per-channel int8 + zstd", "int8"] = functools.partial(_seedless, functools.partial(uniform, bits=8, axis=0))
    for share in KEPT:
        named["random drop + int8 + zstd", f"{share:.0%}"] = functools.partial(_drop, share)
    return {Setting(str(cut), *key): code for key, code in named.items()}


def _seedless(code: Callable[[Array], Coded], x_TC: Array, seed: int) -> Coded:
    return code(x_TC)


def _drop(share: float, x_TC: Array, seed: int) -> Coded:
    return dropped(x_TC, share, seed)


def picture_settings() -> list[tuple[Setting, str, int, int]]:
    rows = []
    for kind, qualities in PICTURES.items():
        for scale in SCALES:
            edge = round(EDGE * scale)
            for quality in qualities:
                rows.append((Setting(str(IMAGE), kind, f"q{quality} {edge} px"), kind.upper(), quality, edge))
    return rows


def picture_coded(image: Image.Image, kind: str, quality: int, edge: int) -> tuple[int, Image.Image]:
    smaller = image if edge == EDGE else image.resize((edge, edge), Image.Resampling.LANCZOS)
    best = {"JPEG": {"optimize": True, "progressive": True}, "WEBP": {"method": 6}, "AVIF": {"speed": 4}}[kind]
    store = io.BytesIO()
    smaller.save(store, kind, quality=quality, **best)
    back = Image.open(io.BytesIO(store.getvalue())).convert("RGB")
    return len(store.getvalue()), back if edge == EDGE else back.resize((EDGE, EDGE), Image.Resampling.LANCZOS)


# --- the model with a coder in it ------------------------------------------------------------------------------------


class Bench:
    """The undivided model, and what each request carries beside its hidden states."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.model, processor = load_whole(MODEL)
        self.tokenizer = processor.tokenizer
        self.codec = codec_of(MODEL)
        _, self.vision, _, self.lm = middle_cuts(MODEL)
        self.prefix = len(self.tokenizer.encode(PREFIX, add_special_tokens=False))
        self.empty = len(self.codec.encode(TOKENS, {HIDDEN: torch.zeros(0, 1)}, "lossless"))

    def measure(self, numbers: range, alive: set[Setting]) -> dict[Setting, Score]:
        """Scores of the pictures of these numbers; the setting ("", "none", "") is the model without a coder."""
        pictures = [draw(TRAINED[n % len(TRAINED)], HELD_OUT_SEEDS + SEED * 2**28 + n) for n in numbers]
        asked = [
            ask(p, np.random.default_rng([97, n]), QUESTIONS_A_PICTURE) for p, n in zip(pictures, numbers, strict=True)
        ]
        self.asked = asked
        images = [picture.image for picture in pictures]
        words = [self._prompt_bytes(questions) for questions in asked]
        scores: dict[Setting, Score] = defaultdict(Score)

        def note(setting: Setting, sizes: list[float], right: list[list[bool]]) -> None:
            scores[setting].bytes += [size + more for size, more in zip(sizes, words, strict=True)]
            scores[setting].right += right

        middle = self._lower(images)
        tokens = self._upper(middle)
        note(NONE, [0.0] * len(images), self._answers(tokens, asked))
        seeds = list(numbers)
        for setting, code in coders(self.codec, self.vision).items():
            if setting in alive:
                sizes, back = self._through(code, middle, seeds, setting)
                note(setting, sizes, self._answers(self._upper(back), asked))
        for setting, code in coders(self.codec, TOKENS).items():
            if setting in alive:
                sizes, back = self._through(code, tokens, seeds, setting)
                note(setting, sizes, self._answers(back, asked, self._hidden_from(setting, seeds)))
        for setting, code in coders(self.codec, self.lm).items():
            if setting in alive:
                note(setting, *self._through_language(code, tokens, asked, seeds, setting))
        for setting, kind, quality, edge in picture_settings():
            if setting in alive:
                coded = [picture_coded(image, kind, quality, edge) for image in images]
                right = self._answers(self._upper(self._lower([image for _, image in coded])), asked)
                note(setting, [float(size) for size, _ in coded], right)
        return scores

    def _prompt_bytes(self, questions: list[Question]) -> float:
        """Mean bytes of a prompt's token ids as they cross beside the hidden states."""
        sizes = []
        for question in questions:
            ids = self.tokenizer.encode(f"{PREFIX}{question.text}", add_special_tokens=False)
            coded = self.codec.encode(TOKENS, {"ids": torch.tensor([ids])}, "lossless")
            sizes.append(len(coded))
        return float(np.mean(sizes))

    @torch.no_grad()
    def _lower(self, images: list[Image.Image]) -> torch.Tensor:
        """[B, 256, C] after the tower's lower half."""
        pixels = normalised(torch.from_numpy(np.stack([np.asarray(image) for image in images])))
        tower = self.model.model.vision_model
        states = tower.embeddings(
            pixel_values=pixels, patch_attention_mask=torch.ones(len(images), 16, 16, dtype=torch.bool)
        )
        for layer in tower.encoder.layers[: self.vision.layers]:
            states = _first(layer(states, None))
        return states

    @torch.no_grad()
    def _upper(self, states: torch.Tensor) -> torch.Tensor:
        """[B, 64, D], the visual tokens."""
        tower = self.model.model.vision_model
        for layer in tower.encoder.layers[self.vision.layers :]:
            states = _first(layer(states, None))
        tokens: torch.Tensor = self.model.model.connector(tower.post_layernorm(states))
        return tokens

    def _through(
        self, code: Callable[[Array, int], Coded], states: torch.Tensor, seeds: list[int], setting: Setting
    ) -> tuple[list[float], torch.Tensor]:
        coded = [code(one.numpy(), seed) for one, seed in zip(states, seeds, strict=True)]
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
    def _answers(
        self, tokens: torch.Tensor, asked: list[list[Question]], hidden: torch.Tensor | None = None
    ) -> list[list[bool]]:
        packed = [pack(self.tokenizer, questions) for questions in asked]
        ids, positions, labels, mask = stack(packed, self.tokenizer.pad_token_id)
        if hidden is not None:
            mask = mask.clone()
            mask[:, 0, :, IMAGE_START : IMAGE_START + VISUAL_TOKENS] &= ~hidden[:, None]
            mask |= torch.eye(mask.shape[-1], dtype=torch.bool)
        right = self._right(tokens, ids, positions, labels, mask)
        rows = []
        for row, (one, questions) in enumerate(zip(packed, asked, strict=True)):
            blocks = torch.tensor(one.blocks)
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
        return (self.model.lm_head(states).argmax(-1) == labels) | (labels == ASIDE)

    @torch.no_grad()
    def _through_language(
        self, code: Callable[[Array, int], Coded], tokens: torch.Tensor, asked: list[list[Question]], seeds: list[int],
        setting: Setting,
    ) -> tuple[list[float], list[list[bool]]]:  # fmt: skip
        """Each question by itself: the states of its prompt are coded together, those of each answer token alone."""
        flat = [(row, question) for row, questions in enumerate(asked) for question in questions]
        packed = [pack(self.tokenizer, [question]) for _, question in flat]
        ids, positions, labels, mask = stack(packed, self.tokenizer.pad_token_id)
        rows = torch.tensor([row for row, _ in flat])
        sizes = np.zeros(len(flat))
        header = 0 if setting.coder == "splitvlm" else self.empty

        def coded(_module: Any, _arguments: Any, output: Any) -> Any:
            states = _first(output)
            back = states.clone()
            for place, one in enumerate(packed):
                prompt = next(i for i, label in enumerate(one.labels) if label != ASIDE) + 1
                for start, stop in [(0, prompt), *((i, i + 1) for i in range(prompt, len(one.ids)))]:
                    size, restored = code(states[place, start:stop].numpy(), seeds[int(rows[place])])
                    sizes[place] += size + header
                    back[place, start:stop] = torch.from_numpy(restored.astype(np.float32))
            return (back, *output[1:]) if isinstance(output, tuple) else back

        hook = self.model.model.text_model.layers[self.lm.layers - 1].register_forward_hook(coded)
        try:
            right = self._right(tokens[rows], ids, positions, labels, mask).all(dim=1)
        finally:
            hook.remove()
        answers: list[list[bool]] = [[] for _ in asked]
        for place, (row, _) in enumerate(flat):
            answers[row].append(bool(right[place]))
        means = [float(sizes[(rows == row).numpy()].mean()) for row in range(len(asked))]
        return means, answers


def _first(output: Any) -> torch.Tensor:
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


NONE = Setting("", "none", "")


# --- the run ---------------------------------------------------------------------------------------------------------


@functools.cache
def _bench() -> Bench:
    return Bench()


def _work(numbers: range, alive: set[Setting]) -> tuple[dict[Setting, Score], list[str]]:
    bench = _bench()
    scores = bench.measure(numbers, alive)
    return dict(scores), [question.kind for questions in bench.asked for question in questions]


def everything() -> set[Setting]:
    codec = codec_of(MODEL)
    _, vision, _, lm = middle_cuts(MODEL)
    of_features = [setting for cut in (vision, TOKENS, lm) for setting in coders(codec, cut)]
    return {*of_features, *(setting for setting, *_ in picture_settings())}


def run(questions: int, jobs: int) -> tuple[dict[Setting, Score], list[str]]:
    pictures = math.ceil(questions / QUESTIONS_A_PICTURE)
    chunks = [range(start, min(start + CHUNK, pictures)) for start in range(0, pictures, CHUNK)]
    first = math.ceil(SCREENED / CHUNK)
    total: dict[Setting, Score] = defaultdict(Score)
    kinds: list[str] = []
    alive = everything()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for part in (chunks[:first], chunks[first:]):
            for scores, some in pool.map(_work, part, [alive] * len(part)):
                kinds += some
                for setting, score in scores.items():
                    total[setting].bytes += score.bytes
                    total[setting].right += score.right
                done = len(total[NONE].bytes)
                print(f"\r{done} of {pictures} pictures, {len(alive)} settings ", end="", flush=True)
            alive = {setting for setting in alive if _share(total[NONE]) - _share(total[setting]) <= SCREEN}
    print()
    return total, kinds


def _share(score: Score) -> float:
    return float(np.mean([right for rights in score.right for right in rights]))


def lost(base: Score, score: Score) -> tuple[float, float]:
    """Share lost on the same questions, and half its 95 % interval; pictures are the independent units."""
    counts = np.array([len(rights) for rights in base.right], float)
    fewer = np.array([sum(a) - sum(b) for a, b in zip(base.right, score.right, strict=True)], float)
    mean = fewer.sum() / counts.sum()
    residual = fewer - mean * counts
    return float(mean), float(1.96 * np.sqrt(np.square(residual).sum()) / counts.sum())


def summary(scores: dict[Setting, Score]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    base = scores[NONE]
    rows = []
    for setting, score in scores.items():
        if setting == NONE or len(score.bytes) < len(base.bytes):
            continue
        mean, half = lost(base, score)
        rows.append({"cut": setting.cut, "coder": setting.coder, "setting": setting.name,
                     "bytes": float(np.mean(score.bytes)), "lost": mean, "half": half})  # fmt: skip
    rows.sort(key=lambda row: (row["cut"], row["coder"], row["bytes"]))
    cuts: dict[str, Any] = {}
    for setting in scores:
        if setting != NONE:
            cuts.setdefault(setting.cut, {})[setting.coder] = dict.fromkeys(LOST)
    for row in rows:
        best = cuts[row["cut"]][row["coder"]]
        for key, holds in zip(
            LOST, (row["lost"] <= row["half"], row["lost"] <= 0.005, row["lost"] <= 0.01), strict=True
        ):
            if holds and (best[key] is None or row["bytes"] < best[key]):
                best[key] = round(row["bytes"], 1)
    return cuts, rows


def by_kind(
    scores: dict[Setting, Score], kinds: list[str], cuts: dict[str, Any], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Of this codec's smallest setting at `tokens` within 1 point: what each kind loses, and half its interval."""
    wanted = cuts[str(TOKENS)]["splitvlm"]["1.0"]
    found = [r for r in rows if (r["cut"], r["coder"]) == (str(TOKENS), "splitvlm") and round(r["bytes"], 1) == wanted]
    if not found:
        return {}
    setting = Setting(str(TOKENS), "splitvlm", found[0]["setting"])
    base = [right for rights in scores[NONE].right for right in rights]
    given = [right for rights in scores[setting].right for right in rights]
    result: dict[str, Any] = {"setting": setting.name}
    for kind in sorted(set(kinds)):
        fewer = np.array([float(a) - float(b) for a, b, k in zip(base, given, kinds, strict=True) if k == kind])
        result[kind] = [round(float(fewer.mean()), 4), round(float(1.96 * fewer.std() / math.sqrt(len(fewer))), 4)]
    return result


def plot(rows: list[dict[str, Any]], base: float, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    cuts = sorted({row["cut"] for row in rows} - {str(IMAGE)}, key=lambda cut: Cut.parse(cut).depth)
    figure, axes = plt.subplots(1, len(cuts), figsize=(5.2 * len(cuts), 4.6), sharey=True, squeeze=False)
    for axis, cut in zip(axes[0], cuts, strict=True):
        for coder in dict.fromkeys(row["coder"] for row in rows if row["cut"] in (cut, str(IMAGE))):
            mine = sorted(
                (r["bytes"], 100 * (base - r["lost"]))
                for r in rows
                if r["coder"] == coder and r["cut"] in (cut, str(IMAGE))
            )
            best = [point for i, point in enumerate(mine) if all(point[1] > other[1] for other in mine[:i])]
            dashed = coder in PICTURES
            axis.plot(*zip(*best, strict=True), "--" if dashed else "-", marker="." if dashed else "o", markersize=5,
                      linewidth=2.2 if coder == "splitvlm" else 1.1, label=coder)  # fmt: skip
        axis.axhline(100 * base, color="grey", linewidth=0.7)
        axis.set(xscale="log", xlabel="bytes a request, before sealing", title=f"cut {cut}")
        axis.set_ylim(100 * base - 5, 100 * base + 0.5)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7, loc="lower right")
    axes[0][0].set_ylabel("answers right, %")
    figure.suptitle("Embedded model: each coder's best settings; pictures dashed; grey line: no coder")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--questions", type=int, default=5000)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--plot", type=Path, default=Path("out/codec.png"))
    options = parser.parse_args()
    scores, kinds = run(options.questions, options.jobs)
    cuts, rows = summary(scores)
    for row in rows:
        print(f"{row['cut']:9} {row['coder']:27} {row['setting']:14} {row['bytes']:10.1f} bytes  "
              f"lost {100 * row['lost']:6.2f} +- {100 * row['half']:.2f} points")  # fmt: skip
    plot(rows, _share(scores[NONE]), options.plot)
    best = {key: min((c[key] for c in cuts[str(IMAGE)].values() if c[key]), default=None) for key in LOST}
    mine = cuts[str(TOKENS)]["splitvlm"]
    ratio = {key: round(best[key] / mine[key], 2) if best[key] and mine[key] else None for key in LOST}
    result = {
        "benchmark": "codec", "questions": len(kinds), "accuracy": round(_share(scores[NONE]), 4), "cuts": cuts,
        "best_picture_over_tokens": ratio, "kinds_lost_at_1.0": by_kind(scores, kinds, cuts, rows),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
