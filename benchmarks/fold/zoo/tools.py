"""Run the tools that Normfold is compared with, in a process of their own, since some of them crash.

    python -m benchmarks.fold.zoo.tools source.onnx FOLDER

The exporter's optimiser reads the source; the others read what it wrote, as torch.onnx.export writes it by default: on
the unoptimised file they would leave more, for its biases are computed from its inputs' types. Each line of standard
output is a tool and how many BatchNormalization nodes it leaves; one that fails has no line.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from benchmarks.fold.pipelines import Run, exporter, onnxruntime_extended, quietly, simplify, slim
from benchmarks.fold.zoo.fold import operators

RUNS: dict[str, Run] = {"onnxruntime": onnxruntime_extended, "onnxslim": slim, "onnxsim": simplify}


def count(name: str, run: Run, source: Path, target: Path) -> bool:
    """Run a tool and print its line; return whether it wrote a file."""
    try:
        quietly(run, source, target)
    except Exception:  # noqa: BLE001 -- they raise many kinds
        traceback.print_exc()
        return False
    print(name, operators(target)["BatchNormalization"], flush=True)
    return True


def main() -> None:
    """Run all tools on one file."""
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    optimised = folder / "exporter.onnx"
    if not count("exporter", exporter, source, optimised):
        optimised = source
    for name, run in RUNS.items():
        count(name, run, optimised, folder / f"{name}.onnx")


if __name__ == "__main__":
    main()
