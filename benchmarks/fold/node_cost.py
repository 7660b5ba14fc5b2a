"""Bytes that move in the time that ONNX Runtime needs to dispatch a node: `make bench-node`.

`export.fold.cost.NODE_BYTES` stands on this. BatchNormalization and Relu in turn, a hundred times, one thread, all
optimisation on: with eight numbers a node's time is dispatch alone, with more than a million it is bytes moved.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.latency import session_of
from benchmarks.machine import machine_line, pinned

PAIRS = 50
RUNS = 30
SIZES = (1, 7, 14, 28, 56, 112)


def chain(channels: int, size: int) -> onnx.ModelProto:
    """Make a chain of pairs for a picture of the given size."""
    shape = [1, channels, size, size]
    nodes = []
    for index in range(PAIRS):
        nodes += [
            helper.make_node("BatchNormalization", [f"h{index}", *"sbmv"], [f"n{index}"]),
            helper.make_node("Relu", [f"n{index}"], [f"h{index + 1}"]),
        ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("h0", f"h{PAIRS}")]
    ones = [numpy_helper.from_array(np.ones(channels, np.float32), name) for name in "sbmv"]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], ones)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def main() -> None:
    """Print a row for each size."""
    print(machine_line(("onnxruntime", "numpy")))
    print(f"{'elements':>12} {'us per node':>11} {'GB/s':>8}")
    with tempfile.TemporaryDirectory() as folder, pinned(0):
        path = Path(folder, "chain.onnx")
        dispatch, speed = 0.0, 0.0
        for size in SIZES:
            channels = 8 if size == 1 else 64
            onnx.save(chain(channels, size), path)
            seconds = time_of(path, (1, channels, size, size)) / (2 * PAIRS)
            numbers = channels * size * size
            rate = 2 * 4 * numbers / seconds
            dispatch, speed = dispatch or seconds, rate
            print(f"{numbers:12,} {seconds * 1e6:11.2f} {rate / 1e9:8.1f}")
    print(f"dispatching a node takes as long as moving {dispatch * speed / 1024:.0f} KiB")


def time_of(path: Path, shape: tuple[int, ...]) -> float:
    """Return the median seconds of a run."""
    session, picture = session_of(path), np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    seconds = []
    for _ in range(RUNS + 3):
        started = time.perf_counter()
        session.run(None, {"h0": picture})
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[3:])


if __name__ == "__main__":
    main()
