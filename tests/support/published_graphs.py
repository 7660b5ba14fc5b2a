"""Graphs of published architectures (tests/graphs), given seeded random weights and matching statistics.

    python -m tests.support.published_graphs fastvit_t8 fastvit_t8.onnx [SEED]

In the files, float initializers of more than 64 elements hold a shape and no values; their doc_string is RANDOM.
Weights get variance 2 / fan-in; BatchNormalization gets a scale of 0.5 to 1.5 with one in ten negative, a shift, and
the statistics of one seeded batch, moved a little so that they are not the batch's own.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.support.paths import GRAPHS

DTYPES: dict[int, type[np.floating]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
}
NAMES = tuple(sorted(path.name.removesuffix(".onnx.gz") for path in GRAPHS.glob("*.onnx.gz")))
"""Names of the graphs, which are timm's names of the architectures."""


SMALL_SIZE = 96
"""Height and width of small pictures: the last features are 3 × 3, the middle one of which has no padding beside it."""

OF_ANY_SIZE = frozenset(
    {
        "densenet121",
        "fastvit_t8",
        "inception_next_atto",
        "legacy_seresnet18",
        "mobilenetv3_small_050",
        "repghostnet_050",
    }
)
"""Graphs that run on pictures of other sizes than they were exported for."""


def published_graph(name: str, seed: int = 0, *, small: bool = False) -> onnx.ModelProto:
    """Return one of the graphs, for a batch of two, with weights drawn from `seed`.

    With `small`, a graph that takes pictures of any size gets small ones, on which it runs several times as fast.
    """
    model = onnx.ModelProto.FromString(gzip.decompress((GRAPHS / f"{name}.onnx.gz").read_bytes()))
    if small and name in OF_ANY_SIZE:
        for size in model.graph.input[0].type.tensor_type.shape.dim[2:]:
            size.dim_value = SMALL_SIZE
        del model.graph.value_info[:]
    set_random_weights(model, np.random.default_rng(seed))
    return model


def set_random_weights(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Fill every initializer that is marked RANDOM, in place."""
    role: dict[str, tuple[str, int]] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            role.setdefault(name, (node.op_type, position))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def put(name: str, values: np.ndarray) -> None:
        tensor = tensors[name]
        tensor.CopyFrom(numpy_helper.from_array(values.astype(DTYPES[tensor.data_type]), name))

    for name, tensor in tensors.items():
        if tensor.doc_string != "RANDOM":
            continue
        shape = tuple(tensor.dims)
        op, position = role.get(name, ("", 0))
        if op == "BatchNormalization" and position in (1, 4):
            values = rng.uniform(0.5, 1.5, shape)
            if position == 1:
                values *= np.where(rng.random(shape) < 0.1, -1.0, 1.0)
        elif op != "BatchNormalization" and len(shape) >= 2:
            fan_in = int(np.prod(shape[1:])) if op == "Conv" else shape[0] if op == "MatMul" else shape[-1]
            values = rng.standard_normal(shape) * np.sqrt(2.0 / max(fan_in, 1))
        else:
            values = 0.2 * rng.standard_normal(shape)
        put(name, values)

    for node, mean, var in batch_statistics(model, rng):
        var = np.maximum(var, 0.05)
        put(node.input[3], mean + 0.05 * np.sqrt(var) * rng.standard_normal(mean.shape))
        put(node.input[4], var * rng.uniform(0.9, 1.1, var.shape))


def batch_statistics(
    model: onnx.ModelProto, rng: np.random.Generator
) -> Iterator[tuple[NodeProto, np.ndarray, np.ndarray]]:
    """Yield each BatchNormalization node with the mean and variance that one random batch gives it."""
    training = onnx.ModelProto()
    training.CopyFrom(model)
    names = []
    for node in training.graph.node:
        if node.op_type == "BatchNormalization":
            kept = [a for a in node.attribute if a.name not in ("momentum", "training_mode")]
            del node.attribute[:]
            node.attribute.extend(
                [*kept, helper.make_attribute("momentum", 0.0), helper.make_attribute("training_mode", 1)]
            )
            outputs = [node.output[0], node.output[0] + "/mean", node.output[0] + "/var"]
            del node.output[:]
            node.output.extend(outputs)
            names += outputs[1:]
    training.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(training.SerializeToString(), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    batch = rng.standard_normal([d if isinstance(d, int) else 8 for d in source.shape]).astype(np.float32)
    found = dict(zip(names, session.run(names, {source.name: batch}), strict=True))
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            yield node, found[node.output[0] + "/mean"], found[node.output[0] + "/var"]


if __name__ == "__main__":
    name, target, *seed = sys.argv[1:]
    onnx.save(published_graph(name, *map(int, seed)), target)
