"""Shifted inputs: what they cost, whether watching sees them, and what adapting brings back: `make bench-shift`.

Convnets on digits from several training seeds, each exported by `normfold export`; everything behind that is done on
the bundle alone. Inputs x go from 0 to 1, are changed and not clipped. Thresholds come from validation pictures, the
200 unlabelled samples of `normfold adapt` too; scores and accuracies are of test pictures. Windows are drawn from them
flat; looks are at the service's own sums, which forget, while the same pictures come one by one in shuffled passes.
Leaves with 1 if a limit is passed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.drift.adapt import CHANGES, Pictures, accuracy, dataset_config, tensors
from benchmarks.machine import machine_line
from benchmarks.progress import tell
from normfold.contract.monitor import MONITOR_CARD_NAME, MONITOR_NAME, Monitor, divergence, read_monitor
from normfold.models.data.data import Dataset, load_dataset
from normfold.models.training.checkpoint import make_run_config
from normfold.models.training.config import TrainConfig
from normfold.models.training.train import fit
from normfold.service.drift.score import WindowSums, finite_rows, score_drift

CLEAN = "as they were"
CORRUPTIONS: dict[str, Callable[[Pictures], Pictures]] = {
    CLEAN: lambda x: x,
    "contrast: 0.3 x": lambda x: 0.3 * x,
    "brightness: x + 0.5": lambda x: x + 0.5,
    "blur: 3 × 3": CHANGES["blur 3 × 3"],
    "noise: std 0.3": CHANGES["noise, std 0.3"],
    "0.2 x + 0.4": lambda x: 0.2 * x + 0.4,
    "gamma: x³": lambda x: x**3,
    "inversion: 1 - x": lambda x: 1 - x,
}
COME_BACK = ("contrast: 0.3 x", "brightness: x + 0.5", "0.2 x + 0.4")
"""Those whose accuracy must be within ALLOWED_LOSS of clean behind an adaptation."""

SAMPLES, WINDOWS = 200, 2000
PASSES, LOOK_EVERY = 50, 20
"""Of the test pictures through the service's sums, and rows between two looks; looks nearby see much the same."""

ALLOWED_LOSS, ALLOWED_CLEAN_LOSS, ALLOWED_FALSE = 0.05, 0.01, 0.01

Rows = list[tuple[np.ndarray, np.ndarray]]
"""By layer, what the monitor gave: (rows, channels) twice."""


@dataclass
class Found:
    """Of one corruption, one value a seed."""

    before: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    flagged: list[float] = field(default_factory=list)
    looks_flagged: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)


def main() -> None:
    """Print the table, and leave with 1 if a limit is passed."""
    parser = argparse.ArgumentParser(prog="make bench-shift", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    print(machine_line(["numpy", "onnxruntime", "torch"]))
    print(f"{seeds} seeds; {WINDOWS} windows of test pictures each; {SAMPLES} samples to adapt to, the default prior\n")
    dataset, found = load_dataset(dataset_config()), {name: Found() for name in CORRUPTIONS}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), dataset, seed, found)
    tell("")
    print(f"{'inputs':22} {'accuracy':>8} {'score':>8} {'flagged':>8} {'looks':>8} {'adapted':>8}", end="   ")
    print("(score: of its threshold; flagged: of windows, of looks at the service's sums)")
    for name, one in found.items():
        columns = (one.before, one.score, one.flagged, one.looks_flagged, one.after)
        means = [float(np.mean(values)) for values in columns]
        print(f"{name:22} {means[0]:8.3f} {means[1]:8.2f} {means[2]:8.4f} {means[3]:8.4f} {means[4]:8.3f}")
    print()
    passed = [verdict(*line) for line in verdicts(found)]
    raise SystemExit(0 if all(passed) else 1)


def measure(folder: Path, dataset: Dataset, seed: int, found: dict[str, Found]) -> None:
    """Train and export one network; then measure each corruption on its bundle."""
    tell(f"seed {seed}: training")
    run = folder / "run"
    fit(make_run_config("convnet", {}, dataset_config(), dataset, TrainConfig(seed=seed)), dataset, run)
    normfold("export", str(run), "--repository", str(folder / "models"), "--name", "digits")
    bundle = folder / "models" / "digits" / "1"
    monitor = read_monitor(bundle / MONITOR_CARD_NAME)
    order = np.random.default_rng(seed).permutation(dataset.splits.validation)[:SAMPLES]
    for name, change in CORRUPTIONS.items():
        tell(f"seed {seed}: {name}")
        test = tensors(dataset, dataset.splits.test, change)
        rows, _ = finite_rows(monitor, run_monitor(bundle / MONITOR_NAME, monitor, test))
        scores = window_scores(monitor, rows, seed)
        np.savez(folder / "samples.npz", input=tensors(dataset, order, change))
        adapted = normfold("adapt", str(folder / "models" / "digits"), "--samples", str(folder / "samples.npz"))
        one = found[name]
        one.before.append(accuracy(bundle / "model.onnx", test, dataset))
        one.score.append(float(np.median(scores)))
        one.flagged.append(float((scores > 1).mean()))
        one.looks_flagged.append(float(np.mean(looks(monitor, rows, seed))))
        one.after.append(accuracy(Path(adapted["bundle"]) / "model.onnx", test, dataset))


def run_monitor(path: Path, monitor: Monitor, test: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return what the monitor gives of each test picture, by output."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [name for layer in monitor.layers for name in (layer.means, layer.squares)]
    return dict(zip(names, session.run(names, {"input": test}), strict=True))


def window_scores(monitor: Monitor, given: Rows, seed: int) -> np.ndarray:
    """Return, for windows drawn from the test pictures, the largest score of a layer, as a part of its threshold."""
    rng, rows = np.random.default_rng(seed), len(given[0][0])
    weights = rng.multinomial(monitor.window_rows, np.full(rows, 1 / rows), WINDOWS) / monitor.window_rows
    parts = []
    for layer, pair in zip(monitor.layers, given, strict=True):
        assert layer.threshold is not None  # the run has validation data
        means, squares = (weights @ one.astype(np.float64) for one in pair)
        scores = divergence(means, squares - means**2, np.array(layer.variances)).mean(axis=1)
        parts.append(scores / layer.threshold)
    largest: np.ndarray = np.max(parts, axis=0)
    return largest


def looks(monitor: Monitor, given: Rows, seed: int) -> list[bool]:
    """Return what the service would say at every LOOK_EVERY-th row of a stream of test pictures, once a window is full.

    The pictures come PASSES times, each time in another order.
    """
    rng, sums, said = np.random.default_rng(seed), WindowSums.of(monitor), []
    for row in np.concatenate([rng.permutation(len(given[0][0])) for _ in range(PASSES)]):
        observe(sums, given, int(row), monitor.window_rows)
        if sums.rows % LOOK_EVERY == 0:
            said.append(score_drift(monitor, sums, max_channels=0).drifted)
    return [drifted for drifted in said if drifted is not None]


def observe(sums: WindowSums, given: Rows, row: int, window_rows: int) -> None:
    """Let the service's sums see one picture, as its own request."""
    sums.add_request([(means[row : row + 1], squares[row : row + 1]) for means, squares in given], window_rows)


def normfold(*arguments: str) -> dict[str, str]:
    """Run a command of ours; return what `--json` gave."""
    done = subprocess.run([sys.executable, "-m", "normfold", *arguments, "--json"], capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"normfold {arguments[0]} left with {done.returncode}: {done.stderr.decode()}")
    record: dict[str, str] = json.loads(done.stdout)
    return record


def verdicts(found: dict[str, Found]) -> list[tuple[str, float, float, str]]:
    """Return each figure with its limit."""
    clean = float(np.mean(found[CLEAN].before))
    lines = [
        (f"{name}: adapted, behind clean", clean - float(np.mean(found[name].after)), ALLOWED_LOSS, "at most")
        for name in COME_BACK
    ]
    costly = [name for name in CORRUPTIONS if clean - float(np.mean(found[name].before)) > ALLOWED_LOSS]
    lines += [
        (f"{name}: windows flagged, in the worst seed", min(found[name].flagged), 1.0, "at least") for name in costly
    ]
    lines.append(("clean windows flagged", float(np.mean(found[CLEAN].flagged)), ALLOWED_FALSE, "at most"))
    lines.append(("clean looks flagged", float(np.mean(found[CLEAN].looks_flagged)), ALLOWED_FALSE, "at most"))
    lines.append(
        ("adapting to clean inputs costs", clean - float(np.mean(found[CLEAN].after)), ALLOWED_CLEAN_LOSS, "at most")
    )
    return lines


def verdict(name: str, value: float, limit: float, kind: str) -> bool:
    """Print a figure beside its limit; return whether it is within."""
    passes = value >= limit if kind == "at least" else value <= limit
    print(f"{'ok  ' if passes else 'FAIL'} {name}: {value:.4f} ({kind} {limit:g})")
    return passes


if __name__ == "__main__":
    main()
