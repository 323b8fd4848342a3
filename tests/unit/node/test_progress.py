"""Long work tells of itself also where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from splitvlm.node import progress


def test_lines_come_where_standard_error_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s)
    store = io.StringIO()
    with progress.show_progress("Asking scenes", Console(file=store)) as told:
        for done in range(0, 2_000, 100):
            now_s += 10.0
            told(done, 2_000)
    assert store.getvalue().splitlines()[0] == "Asking scenes: 200 of 2,000"
    assert len(store.getvalue().splitlines()) == 6


def test_a_terminal_gets_a_bar() -> None:
    store = io.StringIO()
    with progress.show_progress("Asking scenes", Console(file=store, force_terminal=True)) as told:
        told(50, 200)
    assert "25%" in store.getvalue()
