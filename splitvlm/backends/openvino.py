"""OpenVINO: stages in ONNX or in its own format, on the processor, an integrated GPU or an NPU.

Source: docs.openvino.ai, "CPU device": INFERENCE_PRECISION_HINT and INFERENCE_NUM_THREADS.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitvlm.backends.stage import PIXELS, Precision, StageShape, TileStage
from splitvlm.errors import UsageError, first_sentence

DEVICES = {"": "CPU", "gpu": "GPU", "npu": "NPU"}  # by the name after the colon in `openvino:NAME`
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def available_devices() -> tuple[str, ...]:
    """Returns OpenVINO's names of the devices here: CPU, GPU, NPU. Raises ImportError without it."""
    return tuple(_core().available_devices)


def computes_bf16(device: str = "CPU") -> bool:
    """Tells whether the device has instructions for bfloat16."""
    return "BF16" in _core().get_property(device, "OPTIMIZATION_CAPABILITIES")


class OpenVinoStage(TileStage):
    """Runs a stage, compiled for one tile: shapes that are known beforehand compute faster than dynamic ones."""

    def __init__(self, path: Path, backend: str, threads: int | None, precision: Precision) -> None:
        """Compiles the file. `threads` None leaves their number to OpenVINO. Raises UsageError for a file that it refuses."""
        device = DEVICES[backend.partition(":")[2]]
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[precision]}
        options |= _cpu_options(threads) if device == "CPU" else {}
        try:
            model = _core().read_model(path)
            model.reshape({node: [1, *node.partial_shape[1:]] for node in model.inputs})
            compiled = _core().compile_model(model, device, options)
        except Exception as error:  # the library raises RuntimeError and its own
            raise UsageError(
                f"OpenVINO does not open {path}: {first_sentence(error)}", advice="Make the variant anew."
            ) from error
        self._request = compiled.create_infer_request()
        super().__init__(backend, precision, _shape_of(compiled))

    def _run_tile(self, pixels_1CHW: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs = self._request.infer({PIXELS: pixels_1CHW}, share_inputs=True, share_outputs=True)
        tokens_1VD: NDArray[np.float32] = outputs[0]
        return tokens_1VD


def _cpu_options(threads: int | None) -> dict[str, str]:
    """Returns options for the processor. A thread that is pinned to a core would wait for it while other work has it."""
    options = {"ENABLE_CPU_PINNING": "NO"}
    return options if threads is None else options | {"INFERENCE_NUM_THREADS": str(threads)}


def _shape_of(compiled: Any) -> StageShape:
    inputs = {node.any_name: list(node.shape) for node in compiled.inputs}
    _, tokens, width = compiled.output(0).shape
    _, _, height_px, width_px = inputs[PIXELS]
    return StageShape((height_px, width_px), tokens, width)


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()
