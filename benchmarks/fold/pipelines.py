"""The pipelines that are compared: what each is given, and what it does to a file.

Every pipeline reads the same unoptimised file, as torch.onnx.export writes it with optimize=False, and writes another.
All but `normfold` begin with the exporter's own optimiser, which also computes what is constant (shapes, positions),
drops casts that change nothing and joins equal expressions; `normfold` alone gets none of that.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

Run = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Pipeline:
    """One way from a source file to a target file.

    Attributes:
        name: in the table.
        had: what was done to the file, in order.
        run: reads the source, writes the target.
        package: what it needs beside Normfold's own packages.
    """

    name: str
    had: str
    run: Run
    package: str = ""

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return not self.package or find_spec(self.package) is not None


def exporter(source: Path, target: Path) -> None:
    """Run the exporter's optimiser, as torch.onnx.export does by default."""
    import onnx
    from onnxscript import optimizer

    onnx.save(optimizer.optimize(onnx.load(source)), target)


def slim(source: Path, target: Path) -> None:
    """Run onnxslim, as its command does."""
    import onnx
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(source)), target)


def simplify(source: Path, target: Path) -> None:
    """Run onnxsim, as its command does without options."""
    import onnx
    import onnxsim

    simplified, _ = onnxsim.simplify(onnx.load(source))
    onnx.save(simplified, target)


def onnxruntime_extended(source: Path, target: Path) -> None:
    """Save the graph that ONNX Runtime runs with its optimisation level EXTENDED."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def normfold(source: Path, target: Path) -> None:
    """Fold and merge, verification apart."""
    from normfold.export.files.fold_file import fold_file

    fold_file(source, target, verified=False)


def in_turn(first: Run, second: Run) -> Run:
    """Return one pipeline of two, with a file between them."""

    def run(source: Path, target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            between = Path(folder, "between.onnx")
            first(source, between)
            second(between, target)

    return run


def quietly(run: Run, source: Path, target: Path) -> None:
    """Run with everything that a tool prints on standard error, so that standard output holds the table alone."""
    with contextlib.redirect_stdout(sys.stderr):
        run(source, target)


EXPORTER = Pipeline("exporter", "the exporter's optimiser", exporter)
NORMFOLD = Pipeline("normfold", "normfold fold, with merging, on the unoptimised file", normfold)
PIPELINES = (
    EXPORTER,
    Pipeline("+ onnxslim", "the exporter's optimiser, then onnxslim", in_turn(exporter, slim), "onnxslim"),
    Pipeline("+ onnxsim", "the exporter's optimiser, then onnxsim", in_turn(exporter, simplify), "onnxsim"),
    NORMFOLD,
    Pipeline("+ normfold", "the exporter's optimiser, then normfold fold", in_turn(exporter, normfold)),
)
