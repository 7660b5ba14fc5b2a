"""Drifted inputs: loss of accuracy, detection by the monitor, and recovery by adaptation: `make bench-drift`.

Convnets are trained on digits with several seeds and exported by `normfold export`; all measurements use the bundles.
Inputs x from 0 to 1 are corrupted and not clipped. Validation images set the thresholds, and 200 of them are the
unlabelled samples of `normfold adapt`; scores and accuracies are those of test images. Windows are random draws of test
images with equal weights; streams are test images one by one in shuffled passes, with the service's own decaying sums.
The exit code is 1 if a limit is exceeded.
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

from benchmarks.drift.adapt import CHANGES, Images, accuracy, dataset_config, tensors
from benchmarks.machine import machine_line
from benchmarks.progress import show_progress
from normfold.contract.drift.monitor import MONITOR_CARD_NAME, MONITOR_NAME, Monitor, divergence, read_monitor
from normfold.models.data.data import Dataset, load_dataset
from normfold.models.training.checkpoint import make_run_config
from normfold.models.training.config import TrainConfig
from normfold.models.training.train import fit
from normfold.service.drift.score import WindowSums, finite_rows, score_drift

CLEAN = "unchanged"
CORRUPTIONS: dict[str, Callable[[Images], Images]] = {
    CLEAN: lambda x: x,
    "contrast: 0.3 x": lambda x: 0.3 * x,
    "brightness: x + 0.5": lambda x: x + 0.5,
    "blur: 3 × 3": CHANGES["blur 3 × 3"],
    "noise: std 0.3": CHANGES["noise, std 0.3"],
    "0.2 x + 0.4": lambda x: 0.2 * x + 0.4,
    "gamma: x³": lambda x: x**3,
    "inversion: 1 - x": lambda x: 1 - x,
}
RECOVERABLE = ("contrast: 0.3 x", "brightness: x + 0.5", "0.2 x + 0.4")
"""Corruptions after which adaptation must restore accuracy to within ALLOWED_LOSS of that on clean inputs."""

SAMPLES, WINDOWS = 200, 2000
PASSES, EVALUATE_EVERY = 50, 20
"""Passes over the test images in a stream, and rows between two evaluations of the drift score."""

ALLOWED_LOSS, ALLOWED_CLEAN_LOSS, ALLOWED_FALSE = 0.05, 0.01, 0.01

Rows = list[tuple[np.ndarray, np.ndarray]]
"""By layer, the monitor's means and squares, (rows, channels) each."""


@dataclass
class CorruptionResults:
    """Measurements of one corruption, one value per seed."""

    before: list[float] = field(default_factory=list)
    """Accuracy before adaptation."""
    score: list[float] = field(default_factory=list)
    """Median drift score of the windows, divided by the threshold."""
    flagged: list[float] = field(default_factory=list)
    """Fraction of windows over the threshold."""
    stream_flagged: list[float] = field(default_factory=list)
    """Fraction of the stream's evaluations over the threshold."""
    after: list[float] = field(default_factory=list)
    """Accuracy after adaptation."""


def main() -> None:
    """Print the table, and exit with 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(prog="make bench-drift", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    print(machine_line(["numpy", "onnxruntime", "torch"]))
    print(f"{seeds} seeds; {WINDOWS} windows of test images each; {SAMPLES} samples for adaptation, default prior\n")
    dataset, found = load_dataset(dataset_config()), {name: CorruptionResults() for name in CORRUPTIONS}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), dataset, seed, found)
    show_progress("")
    print(f"{'inputs':22} {'accuracy':>8} {'score':>8} {'windows':>8} {'stream':>8} {'adapted':>8}", end="   ")
    print("(score: drift score / threshold; windows, stream: fraction flagged; adapted: accuracy after adaptation)")
    for name, one in found.items():
        columns = (one.before, one.score, one.flagged, one.stream_flagged, one.after)
        means = [float(np.mean(values)) for values in columns]
        print(f"{name:22} {means[0]:8.3f} {means[1]:8.2f} {means[2]:8.4f} {means[3]:8.4f} {means[4]:8.3f}")
    print()
    passed = [verdict(*line) for line in verdicts(found)]
    raise SystemExit(0 if all(passed) else 1)


def measure(folder: Path, dataset: Dataset, seed: int, found: dict[str, CorruptionResults]) -> None:
    """Train and export one network; then measure each corruption on its bundle."""
    show_progress(f"seed {seed}: training")
    run = folder / "run"
    fit(make_run_config("convnet", {}, dataset_config(), dataset, TrainConfig(seed=seed)), dataset, run)
    normfold("export", str(run), "--repository", str(folder / "models"), "--name", "digits")
    bundle = folder / "models" / "digits" / "1"
    monitor = read_monitor(bundle / MONITOR_CARD_NAME)
    order = np.random.default_rng(seed).permutation(dataset.splits.validation)[:SAMPLES]
    for name, change in CORRUPTIONS.items():
        show_progress(f"seed {seed}: {name}")
        test = tensors(dataset, dataset.splits.test, change)
        rows, _ = finite_rows(monitor, run_monitor(bundle / MONITOR_NAME, monitor, test))
        scores = window_scores(monitor, rows, seed)
        np.savez(folder / "samples.npz", input=tensors(dataset, order, change))
        adapted = normfold("adapt", str(folder / "models" / "digits"), "--samples", str(folder / "samples.npz"))
        one = found[name]
        one.before.append(accuracy(bundle / "model.onnx", test, dataset))
        one.score.append(float(np.median(scores)))
        one.flagged.append(float((scores > 1).mean()))
        one.stream_flagged.append(float(np.mean(stream_flags(monitor, rows, seed))))
        one.after.append(accuracy(Path(adapted["bundle"]) / "model.onnx", test, dataset))


def run_monitor(path: Path, monitor: Monitor, test: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return the monitor's outputs for the test images, by name."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [name for layer in monitor.layers for name in (layer.means, layer.squares)]
    return dict(zip(names, session.run(names, {"input": test}), strict=True))


def window_scores(monitor: Monitor, given: Rows, seed: int) -> np.ndarray:
    """Return the largest ratio of score to threshold over the layers, for windows of test images: (WINDOWS,)."""
    rng, rows = np.random.default_rng(seed), len(given[0][0])
    weights = rng.multinomial(monitor.window_rows, np.full(rows, 1 / rows), WINDOWS) / monitor.window_rows
    parts = []
    for layer, pair in zip(monitor.layers, given, strict=True):
        assert layer.threshold is not None  # the run has validation data
        means, squares = (weights @ one.astype(np.float64) for one in pair)
        scores = divergence(means, squares - means**2, np.array(layer.variances)).mean(axis=1)
        parts.append(scores / layer.threshold)
    ratios: np.ndarray = np.max(parts, axis=0)
    return ratios


def stream_flags(monitor: Monitor, given: Rows, seed: int) -> list[bool]:
    """Return the service's drift flag at every EVALUATE_EVERY-th row of a stream, once its window is full.

    The stream is PASSES passes over the test images, each in another order.
    """
    rng, sums, flags = np.random.default_rng(seed), WindowSums.of(monitor), []
    for row in np.concatenate([rng.permutation(len(given[0][0])) for _ in range(PASSES)]):
        observe(sums, given, int(row), monitor.window_rows)
        if sums.rows % EVALUATE_EVERY == 0:
            flags.append(score_drift(monitor, sums, max_channels=0).drifted)
    return [flag for flag in flags if flag is not None]


def observe(sums: WindowSums, given: Rows, row: int, window_rows: int) -> None:
    """Add one image to the service's sums, as a request of its own."""
    sums.add_request([(means[row : row + 1], squares[row : row + 1]) for means, squares in given], window_rows)


def normfold(*arguments: str) -> dict[str, str]:
    """Run a command of Normfold; return its JSON output."""
    done = subprocess.run([sys.executable, "-m", "normfold", *arguments, "--json"], capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"normfold {arguments[0]} exited with {done.returncode}: {done.stderr.decode()}")
    record: dict[str, str] = json.loads(done.stdout)
    return record


def verdicts(found: dict[str, CorruptionResults]) -> list[tuple[str, float, float, str]]:
    """Return (name, value, limit, kind of limit) of every checked quantity."""
    clean = float(np.mean(found[CLEAN].before))
    lines = [
        (f"{name}: loss after adaptation", clean - float(np.mean(found[name].after)), ALLOWED_LOSS, "at most")
        for name in RECOVERABLE
    ]
    harmful = [name for name in CORRUPTIONS if clean - float(np.mean(found[name].before)) > ALLOWED_LOSS]
    lines += [
        (f"{name}: windows flagged, in the worst seed", min(found[name].flagged), 1.0, "at least") for name in harmful
    ]
    lines.append(("clean windows flagged", float(np.mean(found[CLEAN].flagged)), ALLOWED_FALSE, "at most"))
    lines.append(("clean stream flagged", float(np.mean(found[CLEAN].stream_flagged)), ALLOWED_FALSE, "at most"))
    lines.append(
        ("loss by adapting to clean inputs", clean - float(np.mean(found[CLEAN].after)), ALLOWED_CLEAN_LOSS, "at most")
    )
    return lines


def verdict(name: str, value: float, limit: float, kind: str) -> bool:
    """Print a value beside its limit; return whether it is within."""
    passes = value >= limit if kind == "at least" else value <= limit
    print(f"{'ok  ' if passes else 'FAIL'} {name}: {value:.4f} ({kind} {limit:g})")
    return passes


if __name__ == "__main__":
    main()
