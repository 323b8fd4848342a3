"""An exported stage's graph with its linear layers in 8 or 4 bits, by ONNX Runtime's own quantisers.

Biases, norms, attention and residuals stay float32. Weights have a scale for each output channel, or each block of inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from splitvlm.variants.export import quiet_libraries
from splitvlm.variants.graph import linear_nodes, read_graph
from splitvlm.variants.observing import Observed


def with_ranges(model: Any, ranges: Mapping[str, Observed]) -> Any:
    """Returns the graph with the products of those layers in 8 bits; each layer's states have the range that was observed."""
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    nodes = [node for layer, node in linear_nodes(model).items() if layer in ranges]
    data = {
        node.states: (np.float32(min(ranges[node.layer].low, 0)), np.float32(max(ranges[node.layer].high, 0)))
        for node in nodes
    }
    quantiser = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[node.node for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=["MatMul"],
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},  # biases and residuals stay float32
    )
    return quantiser.quantize_model()


def with_dynamic_ranges(model: Any) -> Any:
    """Returns the graph with all products in 8 bits; each run finds the ranges of its states."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder, quiet_libraries():
        path = Path(folder) / "quantised.onnx"
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return read_graph(path)


def in_blocks(model: Any, block: int) -> Any:
    """Returns the graph with weights of 4 bits, a scale for each `block` inputs of an output channel."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    products_in_8_bits = 4  # the `accuracy_level` of MatMulNBits
    quantiser = MatMulNBitsQuantizer(model, block_size=block, is_symmetric=True, accuracy_level=products_in_8_bits)
    quantiser.process()
    return quantiser.model.model
