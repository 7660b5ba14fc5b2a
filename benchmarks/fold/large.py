"""Memory of folding a model of 3 GB with external data: `make bench-fold-large`.

Sixteen blocks of Gemm, BatchNormalization and Relu, each weight of 196 MB. The fold runs in a process of its own,
verification apart; its anonymous memory (RssAnon) is sampled from outside every two milliseconds, above what it was
when the packages were imported. The limit is 1 GB above the largest single weight.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir

from benchmarks.memory import run_and_sample, timed

BLOCKS, WIDTH = 16, 7_000
WEIGHT_BYTES = WIDTH * WIDTH * 4
LIMIT = WEIGHT_BYTES + 10**9


def main() -> None:
    """Make the model, fold it, print the peak; leave with 1 if it is over the limit."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        source, target = Path(folder, "large.onnx"), Path(folder, "folded.onnx")
        print("writing the model …", file=sys.stderr)
        make_model(source)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        seconds, peak = run_and_sample(__spec__.name, [str(source), str(target)], every_s=0.002)
        written = target.with_name("folded.onnx.data").stat().st_size
    print(f"{size / 1e9:.2f} GB of {BLOCKS} blocks, {written / 1e9:.2f} GB written, folded in {seconds:.1f} s")
    print(f"anonymous memory at its peak: {peak / 1e6:.0f} MB above the imports (limit {LIMIT / 1e6:.0f} MB)")
    if peak > LIMIT:
        raise SystemExit(1)


def make_model(path: Path) -> None:
    """Write the chain; weights are random, and made only when they are written."""
    x = ir.Input("x", ir.Shape(["n", WIDTH]), ir.TensorType(ir.DataType.FLOAT))
    nodes: list[ir.Node] = []
    initializers: list[ir.Value] = []
    value = x

    def constant(name: str, shape: tuple[int, ...], seed: int) -> ir.Value:
        def make() -> ir.Tensor[np.ndarray]:
            return ir.Tensor(np.random.default_rng(seed).random(shape, np.float32) + np.float32(0.5))

        tensor = ir.LazyTensor(make, ir.DataType.FLOAT, ir.Shape(shape), name=name)
        made = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor)
        initializers.append(made)
        return made

    for block in range(BLOCKS):
        weight = constant(f"w{block}", (WIDTH, WIDTH), block)
        vectors = [constant(f"bn{block}.{index}", (WIDTH,), 100 * block + index) for index in range(4)]
        for op_type, inputs in (("Gemm", [value, weight]), ("BatchNormalization", [None, *vectors]), ("Relu", [None])):
            node = ir.Node("", op_type, [given or value for given in inputs], name=f"{op_type}{block}")
            value = node.outputs[0]
            value.name, value.shape, value.type = f"{op_type}{block}.out", ir.Shape(["n", WIDTH]), x.type
            nodes.append(node)
    graph = ir.Graph([x], [value], nodes=nodes, initializers=initializers, opset_imports={"": 17}, name="large")
    ir.save(ir.Model(graph, ir_version=10), path, external_data=f"{path.name}.data", max_workers=1)


def fold_once(source: Path, target: Path) -> None:
    """Import, wait for a line, fold, print the seconds."""
    from normfold.export.files.fold_file import fold_file

    def fold() -> None:
        assert fold_file(source, target, verified=False).report.batchnorm_after == 0

    timed(fold)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        fold_once(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
