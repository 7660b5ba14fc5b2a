"""Time of a fold by the number of nodes: `make bench-fold-growth`.

A chain of blocks of Conv (1×1, four channels), BatchNormalization and Relu, once each with 100, 1,000 and 10,000
blocks. Seconds to load, fold and save, in processor time of one process; the fastest of three runs, after a first that
is not counted. Verification is not part of it. Leaves with 1 if a block takes more than twice the time among 10,000
that it takes among 1,000.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.machine import machine_line, pinned
from normfold.export.fold.fold import fold
from normfold.export.onnx_io.model_file import load_model, save_model

BLOCKS = (100, 1_000, 10_000)
CHANNELS = 4
GROWTH_LIMIT = 2.0
RUNS = 3
STEPS = ("load", "fold", "save")


def main() -> None:
    """Measure each length, print the table; leave with 1 if growth is over its limit."""
    parser = argparse.ArgumentParser(prog="make bench-fold-growth")
    parser.add_argument("--core", type=int, default=0, help="the core to measure on (default: %(default)s)")
    core = parser.parse_args().core
    print(machine_line(("onnx", "onnx-ir", "numpy")))
    print(f"{'blocks':>8}{'load s':>10}{'fold s':>10}{'save s':>10}{'total s':>10}{'ms per block':>13}")
    per_block = {}
    with tempfile.TemporaryDirectory() as folder, pinned(core):
        source, target = Path(folder, "chain.onnx"), Path(folder, "folded.onnx")
        for blocks in (BLOCKS[0], *BLOCKS):
            onnx.save(chain(blocks), source)
            seconds = min((fold_once(source, target, blocks) for _ in range(RUNS)), key=lambda run: sum(run.values()))
            per_block[blocks], first = sum(seconds.values()) / blocks, not per_block
            if not first:
                columns = "".join(f"{seconds[step]:10.3f}" for step in STEPS)
                print(f"{blocks:8,}{columns}{sum(seconds.values()):10.3f}{1000 * per_block[blocks]:13.3f}", flush=True)
    growth = per_block[BLOCKS[2]] / per_block[BLOCKS[1]]
    print(
        f"a block among {BLOCKS[2]:,} takes {growth:.2f} times what it takes among {BLOCKS[1]:,}; limit {GROWTH_LIMIT}"
    )
    if growth > GROWTH_LIMIT:
        raise SystemExit(1)


def chain(blocks: int) -> onnx.ModelProto:
    """Return a chain of Conv-BatchNormalization-Relu blocks with seeded weights."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "input"
    for index in range(blocks):
        names = [f"{index}.{part}" for part in ("weight", "scale", "shift", "mean", "var")]
        arrays = [rng.standard_normal((CHANNELS, CHANNELS, 1, 1)), *rng.uniform(0.5, 1.5, (4, CHANNELS))]
        pairs = zip(arrays, names, strict=True)
        weights += [numpy_helper.from_array(array.astype(np.float32), name) for array, name in pairs]
        conv, norm, output = (f"{index}.{part}" for part in ("conv", "norm", "relu"))
        nodes.append(helper.make_node("Conv", [value, names[0]], [conv], conv))
        nodes.append(helper.make_node("BatchNormalization", [conv, *names[1:]], [norm], norm))
        nodes.append(helper.make_node("Relu", [norm], [output], output))
        value = output
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, CHANNELS, 8, 8]) for name in ("input", value)]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def fold_once(source: Path, target: Path, blocks: int) -> dict[str, float]:
    """Return the processor seconds of each step."""
    started = time.process_time()
    model = load_model(source)
    loaded = time.process_time()
    report = fold(model)
    folded = time.process_time()
    save_model(model, target)
    saved = time.process_time()
    assert (report.batchnorm_before, report.batchnorm_after) == (blocks, 0)
    return dict(zip(STEPS, (loaded - started, folded - loaded, saved - folded), strict=True))


if __name__ == "__main__":
    main()
