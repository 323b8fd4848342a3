"""ONNX Runtime: stages in ONNX, on the processor or by another of its execution providers.

Source: onnxruntime.ai/docs/execution-providers; onnxruntime_session_options_config_keys.h for the keys of a session.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitvlm.backends.stage import PIXELS, Precision, StageShape, TileStage
from splitvlm.errors import UsageError, first_sentence

CPU = "CPUExecutionProvider"
# By the name after the colon in `onnxruntime:NAME`; the plain name is the processor.
PROVIDERS = {
    "": CPU,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "qnn": "QNNExecutionProvider",
}


def available_providers() -> tuple[str, ...]:
    """Returns the execution providers of this build, by ONNX Runtime's own names. Raises ImportError without it."""
    import onnxruntime

    return tuple(onnxruntime.get_available_providers())


class OnnxRuntimeStage(TileStage):
    """Runs a stage in ONNX by one execution provider; the processor takes what the provider does not."""

    def __init__(self, path: Path, backend: str, threads: int | None, precision: Precision) -> None:
        """Opens the file. `threads` None leaves their number to ONNX Runtime. Raises UsageError for a file that it refuses."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # errors
        # Threads spin between the operations of a run, and no longer: other work wants the cores then.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        provider = PROVIDERS[backend.partition(":")[2]]
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=list(dict.fromkeys([provider, CPU])))
        except Exception as error:  # the library's errors share no base
            raise UsageError(
                f"ONNX Runtime does not open {path}: {first_sentence(error)}", advice="Make the variant anew."
            ) from error
        super().__init__(backend, precision, _shape_of(self._session))

    def _run_tile(self, pixels_1CHW: NDArray[np.float32]) -> NDArray[np.float32]:
        tokens_1VD: NDArray[np.float32] = self._session.run(None, {PIXELS: pixels_1CHW})[0]
        return tokens_1VD


def _shape_of(session: Any) -> StageShape:
    inputs = {node.name: node.shape for node in session.get_inputs()}
    _, tokens, width = session.get_outputs()[0].shape
    _, _, height_px, width_px = inputs[PIXELS]
    return StageShape((height_px, width_px), tokens, width)
