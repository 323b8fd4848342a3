"""From scores of settings to the table, the kinds and the plot of `codec.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from codec_coders import PICTURES, Setting

from splitvlm.domain import IMAGE, TOKENS, Cut

LOST = ("0", "0.5", "1.0")
NONE = Setting("", "none", "")


@dataclass
class Score:
    """Holds by picture the bytes, and whether each question was answered right."""

    bytes: list[float] = field(default_factory=list)
    right: list[list[bool]] = field(default_factory=list)


def share(score: Score) -> float:
    return float(np.mean([right for rights in score.right for right in rights]))


def lost(base: Score, score: Score) -> tuple[float, float]:
    """Returns the share lost on the same questions, and half its 95 % interval; pictures are the independent units."""
    counts = np.array([len(rights) for rights in base.right], float)
    fewer = np.array([sum(a) - sum(b) for a, b in zip(base.right, score.right, strict=True)], float)
    mean = fewer.sum() / counts.sum()
    residual = fewer - mean * counts
    return float(mean), float(1.96 * np.sqrt(np.square(residual).sum()) / counts.sum())


def summary(scores: dict[Setting, Score]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    base = scores[NONE]
    rows: list[dict[str, Any]] = []
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
    lost: str, scores: dict[Setting, Score], kinds: list[str], cuts: dict[str, Any], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Returns what each kind loses, and half its interval, at the smallest setting at `tokens` within `lost` points."""
    wanted = cuts.get(str(TOKENS), {}).get("splitvlm", {}).get(lost)
    smallest = [
        r for r in rows if (r["cut"], r["coder"]) == (str(TOKENS), "splitvlm") and round(r["bytes"], 1) == wanted
    ]
    if not smallest:
        return {}
    setting = Setting(str(TOKENS), "splitvlm", smallest[0]["setting"])
    base = [right for rights in scores[NONE].right for right in rights]
    right = [right for rights in scores[setting].right for right in rights]
    result: dict[str, Any] = {"setting": setting.name}
    for kind in sorted(set(kinds)):
        fewer = np.array([float(a) - float(b) for a, b, k in zip(base, right, kinds, strict=True) if k == kind])
        result[kind] = [round(float(fewer.mean()), 4), round(float(1.96 * fewer.std() / math.sqrt(len(fewer))), 4)]
    return result


def plot(rows: list[dict[str, Any]], base: float, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    of_features = {row["cut"] for row in rows} - {str(IMAGE)}
    cuts = sorted(of_features or {str(IMAGE)}, key=lambda cut: Cut.parse(cut).depth)
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
        axis.set(xscale="log", xlabel="bytes of a request, sealed", title=f"cut {cut}")
        axis.set_ylim(100 * base - 5, 100 * base + 0.5)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7, loc="lower right")
    axes[0][0].set_ylabel("answers right, %")
    title = "Embedded model: each coder's best settings; pictures dashed; grey line: no coder"
    figure.suptitle(title, fontsize=12 if len(cuts) > 1 else 8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
