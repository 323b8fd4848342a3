"""Reads an exported stage as ONNX, finds its linear layers by their names in torch, and stores embeddings in 8 bits."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_SCOPES = "pkg.torch.onnx.name_scopes"  # metadata of torch's exporter: the modules around a node, from outer to inner
_EMBEDDINGS = ("Conv", "Gather")  # of patches and of positions
LEAST_STORED = 1_024  # smaller tensors stay: their scales would take what is saved


@dataclass(frozen=True, slots=True)
class LinearNode:
    """Names the product of a linear layer in the graph."""

    layer: str  # the module's name, as in tower.encoder.layers.0.mlp.fc1
    node: str
    states: str  # the tensor that is multiplied
    weight: str
    weights: int  # numbers in it


def read_graph(path: Path) -> Any:
    """Returns the file as an `onnx.ModelProto`."""
    import onnx

    return onnx.load(str(path))


def write_graph(graph: Any, path: Path) -> None:
    """Writes the graph without what torch's exporter notes for its developers, which takes as much room as small layers."""
    import onnx

    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del graph.graph.value_info[:]
    onnx.save(graph, str(path))


def linear_nodes(graph: Any) -> dict[str, LinearNode]:
    """Returns the products with constant weights, by the names of their layers in torch."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.graph.initializer}
    linear_nodes = {}
    for node in graph.graph.node:
        if node.op_type == "MatMul" and node.input[1] in sizes:
            layer = _layer_of(node)
            linear_nodes[layer] = LinearNode(layer, node.name, node.input[0], node.input[1], sizes[node.input[1]])
    return linear_nodes


def weight_count(graph: Any) -> int:
    """Returns how many numbers the graph's floating-point constants hold."""
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16)
    return sum(math.prod(tensor.dims) for tensor in graph.graph.initializer if tensor.data_type in floats)


def store_embeddings(graph: Any) -> None:
    """Stores the weights of the patches' and the positions' embedding in 8 bits, a scale for each output channel or row.

    They compute in floating point, as before: only the file, and what is read of it, is smaller.
    """
    users = {name: node for node in graph.graph.node if node.op_type in _EMBEDDINGS for name in node.input}
    for tensor in list(graph.graph.initializer):
        if tensor.name in users and math.prod(tensor.dims) >= LEAST_STORED and len(tensor.dims) > 1:
            _store(graph, tensor)


def _store(graph: Any, tensor: Any) -> None:
    """Replaces a constant by its 8-bit form and a node that multiplies it by its scales, along the first axis."""
    import onnx
    from onnx import helper, numpy_helper

    values = numpy_helper.to_array(tensor)
    scales = np.maximum(np.abs(values).reshape(len(values), -1).max(axis=1) / 127, np.finfo(np.float32).tiny)
    steps = scales.reshape(-1, *[1] * (values.ndim - 1))
    stored = np.clip(np.round(values / steps), -127, 127).astype(np.int8)
    name = tensor.name
    graph.graph.initializer.remove(tensor)
    graph.graph.initializer.append(numpy_helper.from_array(stored, f"{name}_int8"))
    graph.graph.initializer.append(numpy_helper.from_array(scales.astype(np.float32), f"{name}_scale"))
    node: onnx.NodeProto = helper.make_node(
        "DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], f"{name}_dequantised", axis=0
    )
    graph.graph.node.insert(0, node)


def _layer_of(node: Any) -> str:
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
    names: list[str] = ast.literal_eval(scopes) if scopes else [node.name]
    return names[-2] if len(names) > 1 else names[-1]
