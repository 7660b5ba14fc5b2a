"""Time and memory of folding ResNet-50, beside onnx.load + onnx.save of the same file: `make bench-export`.

Each run is a process of its own; both kinds take turns. Time and memory count from the moment when the packages are
imported. Memory is the peak of anonymous memory (see benchmarks.memory). Verification is not part of
the run, nor is syncing the file to the disk: onnx.save does not sync either.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.memory import run_and_sample, timed

ROUNDS = 9
TIME_LIMIT, MEMORY_LIMIT = 2.0, 1.5


def main() -> None:
    """Make the file, run both kinds in turn, print medians and ratios; leave with 1 if a ratio is over its limit."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "resnet50.onnx")
        make_resnet50(source)
        print(f"ResNet-50, {source.stat().st_size / 2**20:.0f} MiB, {ROUNDS} rounds")
        results: dict[str, list[dict[str, float]]] = {"load + save": [], "fold": []}
        for _ in range(ROUNDS):
            for kind, runs in results.items():
                seconds, peak = run_and_sample(__spec__.name, [kind, str(source), str(Path(folder, "out.onnx"))])
                runs.append({"seconds": seconds, "mebibytes": peak / 2**20})
    medians = {
        kind: {figure: statistics.median(run[figure] for run in runs) for figure in ("seconds", "mebibytes")}
        for kind, runs in results.items()
    }
    for kind, median in medians.items():
        print(
            f"{kind:12} {median['seconds']:.3f} s   {median['mebibytes']:.0f} MiB of anonymous memory above the imports"
        )
    ratios = {figure: medians["fold"][figure] / medians["load + save"][figure] for figure in ("seconds", "mebibytes")}
    print(
        f"ratio        {ratios['seconds']:.2f} (limit {TIME_LIMIT})   {ratios['mebibytes']:.2f} (limit {MEMORY_LIMIT})"
    )
    if ratios["seconds"] > TIME_LIMIT or ratios["mebibytes"] > MEMORY_LIMIT:
        raise SystemExit(1)


def make_resnet50(path: Path) -> None:
    """Write ResNet-50 with random weights, and random statistics in place of those that training would set."""
    import torch

    from normfold.models.architectures.registry import Architecture, build
    from normfold.models.onnx.to_onnx import InputSpec, to_onnx

    torch.manual_seed(0)
    network = build(Architecture(name="resnet50", input_shape=(3, 224, 224), classes=1000))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    to_onnx(network.eval(), path, {"input": InputSpec((3, 224, 224))})


def run_once(kind: str, source: Path, target: Path) -> None:
    """Import, wait for a line, run one kind, print its seconds."""
    import onnx

    from normfold.export.fold.fold import fold
    from normfold.export.onnx_io.model_file import load_model, save_model

    def load_and_save() -> None:
        onnx.save(onnx.load(source), target)

    def fold_file() -> None:
        model = load_model(source)
        report = fold(model)
        assert (report.batchnorm_before, report.batchnorm_after) == (53, 0)
        save_model(model, target)

    timed(load_and_save if kind == "load + save" else fold_file)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        run_once(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
