"""Time and memory of folding ResNet-50, beside onnx.load + onnx.save of the same file: `make bench-export`.

Each run is a process of its own; both kinds take turns. Time and memory count from the moment when the packages are
imported. Memory is the peak of anonymous memory (RssAnon), sampled every half millisecond from outside, since protobuf
keeps every other thread of its own process waiting. Verification is not part of
the run, nor is syncing the file to the disk: onnx.save does not sync either.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
                runs.append(watch(kind, source, Path(folder, "out.onnx")))
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

    from models.registry import Architecture, build
    from models.to_onnx import InputSpec, to_onnx

    torch.manual_seed(0)
    network = build(Architecture(name="resnet50", input_shape=(3, 224, 224), classes=1000))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    to_onnx(network.eval(), path, {"input": InputSpec((3, 224, 224))})


def watch(kind: str, source: Path, target: Path) -> dict[str, float]:
    """Run one kind in a process of its own; return its seconds, and how far its anonymous memory rose at its peak."""
    command = [sys.executable, "-m", __spec__.name, kind, str(source), str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()  # the imports are done
        before = peak = anonymous_bytes(process.pid) or 0
        process.stdin.write("go\n")
        process.stdin.flush()
        while (now := anonymous_bytes(process.pid)) is not None:
            peak = max(peak, now)
            time.sleep(0.0005)
        seconds = float(process.stdout.readline())
    return {"seconds": seconds, "mebibytes": (peak - before) / 2**20}


def anonymous_bytes(pid: int) -> int | None:
    """Return the anonymous memory of a process that is resident now, or None if it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)


def run_once(kind: str, source: Path, target: Path) -> None:
    """Import, wait for a line, run one kind, print its seconds."""
    import onnx

    from export.fold import fold
    from export.onnx_file import load_model, save_model

    def load_and_save() -> None:
        onnx.save(onnx.load(source), target)

    def fold_file() -> None:
        model = load_model(source)
        report = fold(model)
        assert (report.batchnorm_before, report.batchnorm_after) == (53, 0)
        save_model(model, target)

    work = load_and_save if kind == "load + save" else fold_file
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    work()
    print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        run_once(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
