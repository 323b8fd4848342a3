"""torch: a stage that is a module in memory, run as it is (`torch`) or compiled (`torch-compile`).

The module comes from whoever loads models; this room knows no model. It computes in its weights' dtype, and where they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splitvlm.backends.stage import PIXELS, StageShape, TileStage
from splitvlm.errors import UsageError, first_sentence

if TYPE_CHECKING:
    import torch

EAGER, COMPILED = "torch", "torch-compile"


class TorchStage(TileStage):
    """Runs a module that turns pixels [N, 3, H, W] into visual tokens [N, V, D]."""

    def __init__(
        self, module: torch.nn.Module, shape: StageShape, *, compiled: bool = False, threads: int | None = None
    ) -> None:
        """Takes a module in evaluation mode; `compiled` compiles it, which takes a compiler for C++ and half a minute.

        `threads` holds for all of torch in this process; None leaves them. Raises UsageError where nothing can be compiled.
        """
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        weight = next(module.parameters())
        self._device, self._dtype = weight.device, weight.dtype
        self._module: Any = module
        super().__init__(
            COMPILED if compiled else EAGER, "bfloat16" if weight.dtype is torch.bfloat16 else "float32", shape
        )
        if compiled:
            self._compile()

    def _compile(self) -> None:
        import torch

        self._module = torch.compile(self._module, dynamic=False)
        blank = np.zeros((1, 3, *self.shape.edge_px), dtype=np.float32)
        try:
            self.run({PIXELS: blank})
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            raise UsageError(
                f"torch.compile does not compile this stage here: {first_sentence(error)}",
                advice="Install a compiler for C++, or use the back end `torch`.",
            ) from error

    def _run_tile(self, pixels_1CHW: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(pixels_1CHW).to(self._device, self._dtype)
            tokens_1VD: NDArray[np.float32] = self._module(pixels).float().cpu().numpy()
        return tokens_1VD
