"""Quick forms of the benchmarks: that they run, what their last lines are, and that a stopped run of the codec's goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.forked import script

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_codec_benchmark_prints_its_object(tmp_path: Path) -> None:
    files = ("--plot", str(tmp_path / "plot.png"), "--store", str(tmp_path / "store.jsonl"))
    command = ("codec.py", "--questions", "8", "--jobs", "1", *files)
    result = _last_line(*command)
    assert result["questions"] == 8
    assert set(result["cuts"]) == {"vision:3", "tokens", "lm:2", "image"}
    assert set(result["cuts"]["image"]) == {"jpeg", "webp", "avif"}
    for coders in result["cuts"].values():
        assert all(set(figures) == {"0", "0.5", "1.0"} for figures in coders.values())
    assert result["cuts"]["tokens"]["splitvlm"]["1.0"] < result["cuts"]["tokens"]["per-token int4 + zstd"]["1.0"]
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    whole = (tmp_path / "store.jsonl").read_text()
    (tmp_path / "store.jsonl").write_text(whole + whole[len(whole) // 2 :][:-9])  # killed while it wrote
    assert _last_line(*command) == result
    assert (tmp_path / "store.jsonl").read_text() == whole


def _last_line(benchmark: str, *options: str) -> dict[str, Any]:
    done = script(BENCHMARKS / benchmark, *options)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_the_probing_benchmark_counts_a_device_s_bytes() -> None:
    options = ("--questions", "5", "--every", "0.2", "--settle", "0", "--idle", "3", "--trace", "constant:2mbit")
    result = _last_line("probing.py", *options)
    assert result["questions"] == 4
    assert sum(result["plans"].values()) == 4
    assert 100 < result["own_bytes"] / 4 < 50_000
    assert result["own_bytes"] <= result["sent_bytes"] < 2 * result["own_bytes"]
    assert result["idle_bytes_a_day"] >= 0


def test_the_orchestrators_benchmark_prints_its_object() -> None:
    """Twelve devices and three cloud nodes, one of which dies."""
    sizes = ("--edges", "12", "--clouds", "3", "--seconds", "1", "--settle", "0")
    result = _last_line("control_plane.py", *sizes)
    assert (result["edges"], result["clouds"]) == (12, 3)
    assert result["death_s"] > 2, "not before three heartbeats were missed"
    assert result["cpu_share"] > 0
    assert result["memory_mib"] > 10


def test_idle_and_active_sessions_stay_within_the_budget_of_keys_and_values() -> None:
    """More answers than the budget has room for, after more cached prefixes than it has room for."""
    sizes = ("--idle", "24", "--active", "8", "--answers", "2", "--tokens", "24", "--kv-budget-mib", "5")
    result = _last_line("cloud_sessions.py", "--model", "scenes", "--threads", "1", *sizes)
    assert 0 < result["kv_peak_prefixes_bytes"] <= result["kv_budget_bytes"]
    assert result["kv_peak_rows_bytes"] > result["kv_budget_bytes"] // 2
    assert result["kv_peak_bytes"] <= result["kv_budget_bytes"]
    assert result["kv_peak_rows_bytes"] + result["kv_peak_prefixes_bytes"] > result["kv_budget_bytes"], "some gave way"
    assert result["open_sessions"] == 24 + 8
    assert result["refused"] > 0
    assert result["rss_peak_mib"] < result["rss_loaded_mib"] + 150


def test_the_back_ends_benchmark_prints_its_object(tmp_path: Path) -> None:
    result = _last_line("backends.py", "--quick", "--threads", "1", "--store", str(tmp_path))
    rows = result["rows"]
    assert rows["torch float32"]["speedup"] == 1
    assert {"onnxruntime float32", "onnxruntime int8-static, rest float32"} <= set(rows)
    assert rows["onnxruntime float32"]["error"] < 1e-4 < rows["onnxruntime int8-static, rest float32"]["error"] < 0.1
    assert result["best"] in rows
    assert {path.name for path in tmp_path.iterdir()} == {"onnx", "int8-static"}


def test_the_benchmark_of_the_apis_prints_its_object() -> None:
    result = _last_line("api.py", "--model", "scenes", "--runs", "2", "--tokens", "8")
    assert (result["runs"], result["same_texts"]) == (2, True)
    assert result["gaps"] > 4, "pieces come one by one over HTTP, too"
    assert result["first_http_ms"] > 0
