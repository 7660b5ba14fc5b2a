"""The networks that `make bench-serve` serves, and requests to them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.serve.load import Request
from normfold.contract.manifest import read_manifest
from normfold.contract.precision.record import PrecisionKind, Recipe
from normfold.export.bundle.export import export_bundle
from normfold.export.onnx_io.model_file import load_model
from normfold.export.quantize.lower_precision import LowerPrecision
from normfold.export.verify.runner import input_infos


def small_network(folder: Path) -> Path:
    """Write a 64-256-256-10 perceptron with seeded weights."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "input"
    sizes = (64, 256, 256, 10)
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        weight = (rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)).astype(np.float32)
        weights += [
            numpy_helper.from_array(weight, f"w{index}"),
            numpy_helper.from_array(np.zeros(outputs, np.float32), f"b{index}"),
        ]
        last = index == len(sizes) - 2
        nodes.append(helper.make_node("Gemm", [value, f"w{index}", f"b{index}"], ["output" if last else f"g{index}"]))
        if not last:
            value = f"r{index}"
            nodes.append(helper.make_node("Relu", [f"g{index}"], [value]))
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", s]) for n, s in (("input", 64), ("output", 10))
    ]
    graph = helper.make_graph(nodes, "small", ports[:1], ports[1:], weights)
    path = folder / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def resnet18(folder: Path) -> Path:
    """Write Normfold's ResNet-18 for images of 224 × 224 with seeded weights."""
    import torch

    from normfold.models.architectures.registry import Architecture, build
    from normfold.models.onnx.to_onnx import InputSpec, to_onnx

    torch.manual_seed(0)
    options: dict[str, Any] = {"classes": 1000}
    network = build(Architecture(name="resnet18", options=options, input_shape=(3, 224, 224)))
    path = folder / "resnet18.onnx"
    to_onnx(network.eval(), path, {"input": InputSpec((3, 224, 224))})
    return path


def infer_request(repository: Path, network: str, array: np.ndarray, binary: bool) -> Request:
    """Return an infer request for an array, as JSON or with binary data."""
    entry: dict[str, Any] = {"name": "input", "shape": list(array.shape), "datatype": "FP32"}
    path = f"/v2/models/{network}/infer"
    output = read_manifest(repository / network / "1" / "manifest.json").outputs[0].name
    if not binary:
        entry["data"] = array.ravel().tolist()
        return Request(path, json.dumps({"inputs": [entry]}).encode())
    entry["parameters"] = {"binary_data_size": array.nbytes}
    outputs = [{"name": output, "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [entry], "outputs": outputs}).encode()
    return Request(path, head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))})


def digits(folder: Path) -> Path:
    """Write the convolutional network for digits of the tutorials, with seeded weights."""
    import torch

    from normfold.models.architectures.registry import Architecture, build
    from normfold.models.onnx.to_onnx import InputSpec, to_onnx

    torch.manual_seed(0)
    network = build(Architecture(name="convnet", options={"classes": 10}, input_shape=(1, 8, 8)))
    path = folder / "digits.onnx"
    to_onnx(network.eval(), path, {"input": InputSpec((1, 8, 8))})
    return path


def copy(folder: Path) -> Path:
    """Write a network that returns its rows of 150,528 numbers (600 kB), so that nothing but the service takes time."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 150_528]) for name in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["output"])], "copy", ports[:1], ports[1:])
    path = folder / "copy.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


MAKERS = {"copy": copy, "small": small_network, "resnet18": resnet18, "digits": digits}

INT8 = "-int8"
"""Ending of the name of a network that is exported in int8."""

_SAMPLES = 16


def export(folder: Path, repository: Path, network: str) -> None:
    """Write a network, and export it, folded, into a repository."""
    source = MAKERS[network.removesuffix(INT8)](folder)
    export_bundle(source, repository, network, convert=_to_int8(source) if network.endswith(INT8) else None)


def _to_int8(source: Path) -> LowerPrecision:
    """Return the conversion with ranges from random rows: seeded weights have statistics that are not their own.

    Such a network says nothing about accuracy; the benchmark itself measures how much faster int8 is.
    """
    (info,) = input_infos(source, load_model(source))
    shape = [_SAMPLES, *(size for size in info.shape[1:] if isinstance(size, int))]
    samples = {info.name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    recipe = Recipe(ranges_from="samples", force=True, max_drop=1.0)
    return LowerPrecision(PrecisionKind.INT8, recipe, samples, samples)
