"""A long run of `codec.py`: chunks of pictures over processes, settings that can no longer matter left out, and resumed."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from codec_coders import Setting
from codec_scores import NONE, Score, share

from splitvlm.errors import UsageError
from splitvlm.files.text import parse_json
from splitvlm.model.threads import use_threads
from splitvlm.node.process_pool import worker_pool

CHUNK = 12  # pictures a forward pass
Work = Callable[[range, set[Setting]], tuple[dict[Setting, Score], list[str]]]


@dataclass(frozen=True)
class Screen:
    """Decides after so many pictures which settings stay: those that lost at most `lost`, and that no two cheaper ones outdo.

    A setting is outdone by those of the same cut and coder that take at most `outdone` of its bytes and have lost nothing. One
    is not enough: it may yet lose what shows on more pictures, and a finer one would stand at "0".
    """

    pictures: int
    lost: float
    outdone: float = 0.0

    def passed(self, alive: set[Setting], scores: dict[Setting, Score]) -> set[Setting]:
        near = {setting for setting in alive if share(scores[NONE]) - share(scores[setting]) <= self.lost}
        return {setting for setting in near if sum(self._outdoes(other, setting, scores) for other in near) < 2}

    def _outdoes(self, other: Setting, setting: Setting, scores: dict[Setting, Score]) -> bool:
        return (
            (other.cut, other.coder) == (setting.cut, setting.coder)
            and np.mean(scores[other].bytes) <= self.outdone * np.mean(scores[setting].bytes)
            and share(scores[other]) >= share(scores[NONE])
        )


SCREENS = (Screen(96, 0.03), Screen(300, 0.02, 0.6), Screen(1250, 0.015, 0.9))


class Store:
    """Stores measured chunks, a line of JSON each, so that a run that was stopped goes on. The first line says of what."""

    def __init__(self, path: Path | None, about: dict[str, Any]) -> None:
        self._known: dict[int, tuple[dict[Setting, Score], list[str]]] = {}
        self._file: TextIO | None = None
        if path is None:
            return
        lines = _whole_lines(path, about) if path.exists() else []
        for line in lines[1:]:
            chunk = parse_json(line, "kept rows")
            scores = {Setting(*key): Score(sizes, right) for key, sizes, right in chunk["scores"]}
            self._known[chunk["start"]] = scores, chunk["kinds"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for line in lines))
        self._file = path.open("a")
        if not lines:
            self._write(about)

    def known(self, chunk: range, alive: set[Setting]) -> tuple[dict[Setting, Score], list[str]] | None:
        if chunk.start not in self._known:
            return None
        scores, kinds = self._known[chunk.start]
        if len(scores[NONE].bytes) != len(chunk) or not alive <= set(scores):
            return None
        return {setting: score for setting, score in scores.items() if setting in alive or setting == NONE}, kinds

    def add(self, chunk: range, scores: dict[Setting, Score], kinds: list[str]) -> None:
        rows = [[list(asdict(setting).values()), score.bytes, score.right] for setting, score in scores.items()]
        self._write({"start": chunk.start, "kinds": kinds, "scores": rows})

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


def _whole_lines(path: Path, about: dict[str, Any]) -> list[str]:
    """Reads the whole lines: a run that was killed may leave half a line. Ends the program where the file is no store."""
    try:
        text = path.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()
        same = parse_json(lines[0], "kept rows") == about if lines else not text
    except (OSError, ValueError, UsageError):
        same = False
    if not same:
        sys.exit(f"codec.py: {path} is no store of this seed, codec and settings. Choose another --store.")
    return lines


def run(
    work: Work, pictures: int, jobs: int, alive: set[Setting], store: Store
) -> tuple[dict[Setting, Score], list[str]]:
    """Returns the scores over all pictures; a setting that a screen took out has fewer."""
    chunks = [range(start, min(start + CHUNK, pictures)) for start in range(0, pictures, CHUNK)]
    total: dict[Setting, Score] = defaultdict(Score)
    kinds: list[str] = []
    screens = [*SCREENS, Screen(pictures, 1.0)]
    with worker_pool(jobs) if jobs > 1 else ThreadPoolExecutor(1, initializer=use_threads, initargs=(1,)) as pool:
        for before, screen in zip([0, *(screen.pictures for screen in screens)], screens, strict=False):
            part = [chunk for chunk in chunks if before <= chunk.start < screen.pictures]
            for scores, some in _measured(pool, work, part, alive, store):
                kinds += some
                for setting, score in scores.items():
                    total[setting].bytes += score.bytes
                    total[setting].right += score.right
                done = len(total[NONE].bytes)
                print(f"\r{done} of {pictures} pictures, {len(alive)} settings ", end="", flush=True)
            if part:
                alive = screen.passed(alive, total)
    print()
    return total, kinds


def _measured(
    pool: Executor, work: Work, part: list[range], alive: set[Setting], store: Store
) -> Iterator[tuple[dict[Setting, Score], list[str]]]:
    """Yields the scores in the order of chunks."""
    stored = [store.known(chunk, alive) for chunk in part]
    running = [None if rows else pool.submit(work, chunk, alive) for rows, chunk in zip(stored, part, strict=True)]
    for chunk, rows, future in zip(part, stored, running, strict=True):
        if rows is not None:
            yield rows
        elif future is not None:
            measured = future.result()
            store.add(chunk, *measured)
            yield measured
