"""What re-estimating statistics brings back, what it cannot, and what it costs: `make bench-adapt`.

Accuracy: convnets on digits from five training seeds; test pictures changed, as validation pictures are that each
network is adapted to. Medians. Refusals: of draws whose second half is changed. Cost: ResNet-18 at 224 × 224, in a
process of its own, its anonymous memory sampled from outside above the imports.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from benchmarks.machine import machine_line
from benchmarks.memory import timed, watch
from benchmarks.progress import tell
from normfold.models.data.data import DataConfig, Dataset, load_dataset
from normfold.models.training.checkpoint import make_run_config
from normfold.models.training.config import TrainConfig

Pictures = npt.NDArray[np.float64]
FULL = 16.0
COUNTS, PRIORS = (32, 64, 200), (0.0, 16.0, 64.0)
SAMPLES = 200


def blurred(x: Pictures) -> Pictures:
    """Return the mean over 3 × 3 pixels, borders repeated."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = x.shape[2:]
    parts = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    mean: Pictures = np.mean(parts, axis=0)
    return mean


CHANGES: dict[str, Callable[[Pictures], Pictures]] = {
    "none": lambda x: x,
    "0.2 x + 0.4": lambda x: 0.2 * x + 0.4,
    "x + 0.5": lambda x: x + 0.5,
    "0.3 x": lambda x: 0.3 * x,
    "blur 3 × 3": blurred,
    "noise, std 0.3": lambda x: x + np.random.default_rng(1).normal(0, 0.3, x.shape),
}
DRIFTS: dict[str, Callable[[Pictures], Pictures]] = {
    "none": lambda x: x,
    "x + 0.1": lambda x: x + 0.1,
    "x + 0.2": lambda x: x + 0.2,
    "0.9 x": lambda x: 0.9 * x,
    "0.8 x": lambda x: 0.8 * x,
}
"""What becomes of the second half of the samples."""
DRAWS = 100
FEW_CLASSES = "none; samples of digits 0 and 1"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    print(machine_line(["numpy", "onnxruntime", "torch"]))
    dataset = load_dataset(dataset_config())
    with tempfile.TemporaryDirectory() as folder:
        found = [dict(accuracies(Path(folder), dataset, seed)) for seed in range(seeds)]
        cells = [f"n {count}, N {prior:g}" for count in COUNTS for prior in PRIORS]
        print(" | ".join(["change", "before", *cells]))
        for change in (*CHANGES, FEW_CLASSES):
            rows = np.median([each[change] for each in found], axis=0)
            print(" | ".join([change, *(f"{value:.3f}" for value in rows)]))
        for drift in DRIFTS:
            cells = [refusals(Path(folder, "0.onnx"), dataset, drift, count) for count in COUNTS]
            print(" | ".join([f"second half {drift}: refused of {DRAWS}, median z", *cells]))
        network = Path(folder, "resnet18.onnx")
        tell("exporting ResNet-18")
        write_resnet(network)
        for count in (SAMPLES, 2 * SAMPLES):
            seconds, peak = watch(__spec__.name, [str(network), str(count)], every_s=0.002)
            print(f"ResNet-18, {count} samples of 3 × 224 × 224: {seconds:.1f} s, {peak / 1e6:.0f} MB at its peak")


def accuracies(folder: Path, dataset: Dataset, seed: int) -> Iterator[tuple[str, list[float]]]:
    """Yield for each change the test accuracy before, and after for each number of samples and prior."""
    from normfold.export.adapt.recalibrate import recalibrate
    from normfold.export.adapt.samples import Samples
    from normfold.export.onnx_io.model_file import load_model, save_model
    from normfold.models.onnx.to_onnx import checkpoint_to_onnx
    from normfold.models.training.train import fit

    tell(f"training, seed {seed}")
    run, source, target = folder / str(seed), folder / f"{seed}.onnx", folder / "adapted.onnx"
    fit(make_run_config("convnet", {}, dataset_config(), dataset, TrainConfig(seed=seed)), dataset, run)
    checkpoint_to_onnx(run, source)
    order = np.random.default_rng(seed).permutation(dataset.splits.validation)
    few = np.concatenate([order, dataset.splits.train])
    few = few[dataset.y[few] < 2]  # validation has too few of them
    settings = [(name, change, order) for name, change in CHANGES.items()] + [(FEW_CLASSES, CHANGES["none"], few)]
    for name, change, rows in settings:
        tell(f"seed {seed}: {name}")
        test = tensors(dataset, dataset.splits.test, change)
        found = [accuracy(source, test, dataset)]
        for count in COUNTS:
            given = tensors(dataset, rows[:count], change)
            for prior in PRIORS:
                model = load_model(source)
                recalibrate(model, Samples(len(given), partial(cut, given)), prior)
                save_model(model, target)
                found.append(accuracy(target, test, dataset))
        yield name, found


def refusals(source: Path, dataset: Dataset, drift: str, count: int) -> str:
    """Return how many draws of samples are refused if their second half is changed, and the median of the largest z."""
    from normfold.export.adapt.recalibrate import recalibrate
    from normfold.export.adapt.samples import Samples
    from normfold.export.onnx_io.model_file import load_model

    refused, largest = 0, []
    for seed in range(DRAWS):
        tell(f"second half {drift}, {count} samples, draw {seed}")
        rows = np.random.default_rng(seed).choice(len(dataset.x), count, replace=False)
        halves = (CHANGES["none"], rows[: count // 2]), (DRIFTS[drift], rows[count // 2 :])
        given = np.concatenate([tensors(dataset, half, change) for change, half in halves])
        layers = recalibrate(load_model(source), Samples(count, partial(cut, given)), 16.0).layers
        gaps = [gap for layer in layers for gap in (layer.stability.means, layer.stability.variances)]
        refused += any(gap.is_real for gap in gaps)
        largest.append(max(gap.z for gap in gaps))
    return f"n {count}: {refused}, {np.median(largest):.1f}"


def cut(given: npt.NDArray[np.float32], start: int, stop: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return some of the samples by the name of the network's input."""
    return {"input": given[start:stop]}


def dataset_config() -> DataConfig:
    """Return the data: enough of them are for validation."""
    return DataConfig(validation_fraction=0.15)


def tensors(
    dataset: Dataset, rows: npt.NDArray[np.intp], change: Callable[[Pictures], Pictures]
) -> npt.NDArray[np.float32]:
    """Return what the network takes of some pictures, changed in units of 0 to 1."""
    return dataset.preprocessing.standardise(FULL * change(dataset.x[rows] / FULL))


def accuracy(path: Path, test: npt.NDArray[np.float32], dataset: Dataset) -> float:
    """Return the share of test pictures that a network gets right."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"input": test})[0]
    return float((logits.argmax(axis=1) == dataset.y[dataset.splits.test]).mean())


def write_resnet(path: Path) -> None:
    """Export an untrained ResNet-18."""
    from normfold.models.architectures.registry import FACTORIES
    from normfold.models.onnx.to_onnx import InputSpec, to_onnx

    network = FACTORIES["resnet18"](input_shape=(3, 224, 224), classes=1000).eval()
    to_onnx(network, path, {"input": InputSpec((3, 224, 224))})


def adapt_once(path: Path, count: int) -> None:
    """Import, wait for a line, re-estimate, print the seconds; each sample is made when its turn comes."""
    from normfold.export.adapt.recalibrate import recalibrate
    from normfold.export.adapt.samples import Samples
    from normfold.export.onnx_io.model_file import load_model

    def read(start: int, stop: int) -> dict[str, npt.NDArray[np.float32]]:
        pictures = [np.random.default_rng(each).random((3, 224, 224), np.float32) for each in range(start, stop)]
        return {"input": np.stack(pictures)}

    def adapt() -> None:
        recalibrate(load_model(path), Samples(count, read), 16.0)

    timed(adapt)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].endswith(".onnx"):
        adapt_once(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
