"""Run one of the tools that Normfold is compared with, in a process of its own, since some of them crash.

python -m benchmarks.fold.zoo.tools onnxsim source.onnx target.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.fold.pipelines import Run, onnxruntime_extended, quietly, simplify, slim

RUNS: dict[str, Run] = {"onnxruntime": onnxruntime_extended, "onnxsim": simplify, "onnxslim": slim}

if __name__ == "__main__":
    name, source, target = sys.argv[1:]
    quietly(RUNS[name], Path(source), Path(target))
