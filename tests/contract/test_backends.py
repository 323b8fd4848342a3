"""One contract over all back ends: the visual tokens of torch's own modules within a stated error, and wrong inputs refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from splitvlm.backends.catalogue import availabilities, candidates, check_backend, open_stage
from splitvlm.backends.stage import PIXELS, StageShape, TileStage
from splitvlm.backends.timing import BackendChoice, TimedBackend, chosen, fastest_backend
from splitvlm.backends.torch import TorchStage
from splitvlm.domain import TOKENS
from splitvlm.errors import UsageError
from splitvlm.model.loading import load_device
from splitvlm.variants import export, graph, observing, quantised_graphs
from tests.made_once import made_once
from tests.samples import tiny_model

HERE = {(entry.backend, precision) for entry in availabilities() for precision in entry.precisions}
ROUNDING, BFLOAT16, INT8, INT4 = 1e-5, 0.05, 0.1, 0.4  # root mean square of the differences, over that of the tokens


@dataclass(frozen=True)
class Case:
    backend: str
    precision: Any
    file: str  # "" for a module in memory
    error: float


CASES = (
    Case("torch", "float32", "", ROUNDING),
    Case("torch", "bfloat16", "", BFLOAT16),
    Case("onnxruntime", "float32", "float32", ROUNDING),
    Case("openvino", "float32", "float32", ROUNDING),
    Case("openvino", "bfloat16", "float32", BFLOAT16),
    Case("onnxruntime", "float32", "int8-static", INT8),
    Case("openvino", "float32", "int8-static", INT8),
    Case("openvino", "bfloat16", "int8-static", INT8),
    Case("onnxruntime", "float32", "int8-dynamic", INT8),
    Case("openvino", "float32", "int8-dynamic", INT8),
    Case("onnxruntime", "float32", "int4", INT4),
    Case("openvino", "float32", "int4", INT4),
)


@dataclass(frozen=True)
class Exported:
    model: str
    module: torch.nn.Module
    shape: StageShape
    files: dict[str, Path]
    stages: dict[tuple[Case, int], TileStage] = field(default_factory=dict)

    def pixels(self, tiles: int) -> NDArray[np.float32]:
        return np.random.default_rng(tiles).standard_normal((tiles, 3, *self.shape.edge_px)).astype(np.float32)

    def open(self, case: Case, threads: int = 1) -> TileStage:
        """Returns a stage that is opened once: a library may take half a second for it."""
        if (case, threads) not in self.stages:
            self.stages[case, threads] = self._opened(case, threads)
        return self.stages[case, threads]

    def _opened(self, case: Case, threads: int) -> TileStage:
        if case.file:
            return open_stage(self.files[case.file], case.backend, threads=threads, precision=case.precision)
        part = load_device(self.model, [TOKENS], dtype=case.precision, packed=False)
        return TorchStage(*export.stage_module(part), threads=threads)


@pytest.fixture(scope="module")
def exported() -> Exported:
    model = tiny_model("scenes-like")
    module, shape = export.stage_module(load_device(model, [TOKENS], packed=False))
    result = Exported(model, module, shape, {})
    folder = made_once("exported-tower", lambda folder: export_into(folder, result))
    result.files.update({kind: folder / f"{kind}.onnx" for kind in ("float32", "int8-static", "int8-dynamic", "int4")})
    return result


def export_into(folder: Path, exported: Exported) -> None:
    """Writes the stage in float32, and what each way to quantise makes of that file."""
    folder.mkdir()
    plain = folder / "float32.onnx"
    export.export_stage(exported.module, exported.shape, plain)
    observed = observing.observe(exported.module, [torch.from_numpy(exported.pixels(4))], lambda _: None)
    kinds: dict[str, Callable[[Any], Any]] = {
        "int8-static": lambda model: quantised_graphs.with_ranges(model, observed),
        "int8-dynamic": quantised_graphs.with_dynamic_ranges,
        "int4": lambda model: quantised_graphs.in_blocks(model, 16),
    }
    for kind, quantise in kinds.items():
        quantised = quantise(graph.read_graph(plain))
        graph.store_embeddings(quantised)
        graph.write_graph(quantised, folder / f"{kind}.onnx")


@pytest.fixture(params=CASES, ids=lambda case: f"{case.backend}-{case.precision}-{case.file or 'module'}")
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    if (found.backend, found.precision) not in HERE:
        pytest.skip(f"{found.backend} does not compute in {found.precision} here")
    return found


@pytest.mark.parametrize("tiles", [1, 2, 7])
def test_tokens_are_torchs_within_the_error(exported: Exported, case: Case, tiles: int) -> None:
    stage, pixels = exported.open(case), exported.pixels(tiles)
    tokens = stage.run({PIXELS: pixels})
    assert (tokens.dtype, tokens.shape) == (np.float32, (tiles * exported.shape.tokens, exported.shape.width))
    assert export.agreement(tokens, export.torch_tokens(exported.module, pixels)).rms <= case.error
    assert (stage.backend, stage.precision) == (case.backend, case.precision)


def test_a_tile_s_neighbours_change_nothing(exported: Exported, case: Case) -> None:
    stage, pixels = exported.open(case), exported.pixels(3)
    together = stage.run({PIXELS: pixels}).reshape(3, -1)
    for index in range(3):
        assert np.array_equal(stage.run({PIXELS: pixels[index : index + 1]}).ravel(), together[index])


def test_no_tiles_give_no_tokens(exported: Exported, case: Case) -> None:
    assert exported.open(case).run({PIXELS: exported.pixels(0)}).shape == (0, exported.shape.width)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({}, "it lacks pixel_values"),
        ({PIXELS: np.zeros((1, 3, 64, 64))}, "pixel_values is float64"),
        ({PIXELS: np.zeros((1, 3, 64, 65), np.float32)}, "[1, 3, 64, 65] instead of float32 [N, 3, 64, 64]"),
        ({PIXELS: np.zeros((3, 64, 64), np.float32)}, "[3, 64, 64] instead of"),
        ({PIXELS: np.float32(1)}, "[] instead of"),
        ({PIXELS: np.zeros((1, 3, 64, 64), np.float32), "mask": np.ones(1)}, "mask is unknown"),
    ],
)
def test_wrong_inputs_are_refused_by_name(exported: Exported, case: Case, inputs: Any, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        exported.open(case).run(inputs)


def test_strided_pixels_are_read_as_they_are(exported: Exported, case: Case) -> None:
    stage, pixels = exported.open(case), exported.pixels(2)
    strided = np.asfortranarray(pixels)
    assert np.array_equal(stage.run({PIXELS: strided}), stage.run({PIXELS: pixels}))


def test_two_threads_compute_what_one_does(exported: Exported, case: Case) -> None:
    pixels = exported.pixels(1)
    one, two = (exported.open(case, threads=threads).run({PIXELS: pixels}) for threads in (1, 2))
    torch.set_num_threads(1)
    assert export.agreement(two, one).rms <= max(case.error / 2, ROUNDING)


@pytest.mark.slow
def test_a_compiled_stage_gives_torchs_tokens(exported: Exported) -> None:
    stage = TorchStage(exported.module, exported.shape, compiled=True, threads=1)
    tokens = stage.run({PIXELS: exported.pixels(2)})
    assert export.agreement(tokens, export.torch_tokens(exported.module, exported.pixels(2))).rms <= ROUNDING
    assert stage.backend == "torch-compile"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux shows them")
def test_a_session_takes_no_more_threads_than_it_is_given(exported: Exported) -> None:
    before = len(os.listdir("/proc/self/task"))
    stage = open_stage(exported.files["float32"], "onnxruntime", threads=1)
    stage.run({PIXELS: exported.pixels(1)})
    assert len(os.listdir("/proc/self/task")) <= before + 1, threading.enumerate()


@pytest.mark.parametrize("backend", ["onnxruntime:cuda", "onnxruntime:tensorrt", "onnxruntime:qnn", "openvino:npu"])
def test_a_back_end_that_is_not_here_is_refused_by_name(exported: Exported, backend: str) -> None:
    if (backend, "float32") in HERE:
        pytest.skip(f"{backend} is here")
    with pytest.raises(UsageError, match=rf"The back end {backend} is not here: .+\."):
        open_stage(exported.files["float32"], backend)


def test_what_cannot_be_opened_is_refused_by_name(exported: Exported, tmp_path: Path) -> None:
    broken = tmp_path / "tower.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(UsageError, match="There is no back end 'tpu'"):
        check_backend("tpu", "float32")
    with pytest.raises(UsageError, match="does not compute in bfloat16"):
        check_backend("onnxruntime", "bfloat16")
    with pytest.raises(UsageError, match=r"does not open tower\.xml"):
        open_stage(tmp_path / "tower.xml", "onnxruntime")
    with pytest.raises(UsageError, match="no such file"):
        open_stage(tmp_path / "missing.onnx", "openvino")
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(UsageError, match=f"does not open {re.escape(str(broken))}"):
            open_stage(broken, backend)


def test_the_fastest_back_end_is_chosen_with_its_reason(exported: Exported) -> None:
    path = exported.files["int8-static"]
    choice = fastest_backend(path, "int8", threads=1)
    assert choice.tile_s == min(entry.tile_s for entry in choice.timed if entry.tile_s is not None)
    assert choice.reason.startswith(f"{choice.backend} in {choice.precision}, ")
    assert {entry.backend for entry in choice.timed} == {entry.backend for entry in candidates(path)}


def test_a_choice_names_what_it_was_chosen_over() -> None:
    timed = (
        TimedBackend("onnxruntime", "float32", 0.02),
        TimedBackend("openvino", "float32", 0.03),
        TimedBackend("openvino", "bfloat16", 0.01),
        TimedBackend("openvino:npu", "float32", None, "OpenVINO finds no NPU on this machine"),
    )
    choice = chosen(timed)
    assert choice == BackendChoice("openvino", "bfloat16", 0.01, timed)
    assert (
        choice.reason
        == "openvino in bfloat16, 10.0 ms a tile; onnxruntime in float32 20.0 ms, openvino in float32 30.0 ms"
    )
    with pytest.raises(UsageError, match="openvino:npu in float32: OpenVINO finds no NPU"):
        chosen(timed[3:])


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_stage_runs_without_torch_and_without_the_other_back_end(exported: Exported, backend: str) -> None:
    program = (
        "import sys, pathlib, numpy; from splitvlm.backends.catalogue import open_stage; "
        f"stage = open_stage(pathlib.Path({str(exported.files['int8-static'])!r}), {backend!r}, threads=1); "
        f"stage.run({{'pixel_values': numpy.zeros((1, 3, 64, 64), numpy.float32)}}); "
        "print(*({'torch', 'transformers', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [backend]
