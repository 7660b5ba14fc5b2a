"""Adaptation: recovered accuracy, rejection of samples that drift, time and memory: `make bench-adapt`.

Accuracy: convnets trained on digits with five seeds; test images and the validation images for adaptation are changed
in the same way; medians over seeds. Rejections: samples whose second half is changed. Cost: ResNet-18 at 224 × 224 in a
process of its own, with its anonymous memory sampled from outside, without that of the imports.
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
from benchmarks.memory import run_and_sample, timed
from benchmarks.progress import show_progress
from normfold.models.data.data import DataConfig, Dataset, load_dataset
from normfold.models.training.checkpoint import load_checkpoint, make_run_config
from normfold.models.training.config import TrainConfig

Images = npt.NDArray[np.float64]
FULL = 16.0
COUNTS, PRIORS = (32, 64, 200), (0.0, 16.0, 64.0)
SAMPLES = 200


def blurred(x: Images) -> Images:
    """Return the mean over 3 × 3 pixels, with repeated borders."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = x.shape[2:]
    parts = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    mean: Images = np.mean(parts, axis=0)
    return mean


CHANGES: dict[str, Callable[[Images], Images]] = {
    "none": lambda x: x,
    "0.2 x + 0.4": lambda x: 0.2 * x + 0.4,
    "x + 0.5": lambda x: x + 0.5,
    "0.3 x": lambda x: 0.3 * x,
    "blur 3 × 3": blurred,
    "noise, std 0.3": lambda x: x + np.random.default_rng(1).normal(0, 0.3, x.shape),
}
DRIFTS: dict[str, Callable[[Images], Images]] = {
    "none": lambda x: x,
    "x + 0.1": lambda x: x + 0.1,
    "x + 0.2": lambda x: x + 0.2,
    "0.9 x": lambda x: 0.9 * x,
    "0.8 x": lambda x: 0.8 * x,
}
"""Changes of the second half of the samples."""
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
        cells = [f"{count} samples, prior {prior:g}" for count in COUNTS for prior in PRIORS]
        print(" | ".join(["change", "before", *cells]))
        for change in (*CHANGES, FEW_CLASSES):
            rows = np.median([each[change] for each in found], axis=0)
            print(" | ".join([change, *(f"{value:.3f}" for value in rows)]))
        for drift in DRIFTS:
            cells = [rejections(Path(folder, "0.onnx"), dataset, drift, count) for count in COUNTS]
            print(" | ".join([f"second half {drift}: rejected of {DRAWS}, median z-score", *cells]))
        network = Path(folder, "resnet18.onnx")
        show_progress("exporting ResNet-18")
        write_resnet(network)
        for count in (SAMPLES, 2 * SAMPLES):
            seconds, peak = run_and_sample(__spec__.name, [str(network), str(count)], every_s=0.002)
            print(f"ResNet-18, {count} samples of 3 × 224 × 224: {seconds:.1f} s, {peak / 1e6:.0f} MB at its peak")


def accuracies(folder: Path, dataset: Dataset, seed: int) -> Iterator[tuple[str, list[float]]]:
    """Yield, for each change, the test accuracy before adaptation, and after it by number of samples and prior."""
    from normfold.export.adapt.recalibrate import recalibrate
    from normfold.export.adapt.samples import Samples
    from normfold.export.onnx_io.model_file import load_model, save_model
    from normfold.models.onnx.to_onnx import checkpoint_to_onnx
    from normfold.models.training.train import fit

    show_progress(f"training, seed {seed}")
    run, source, target = folder / str(seed), folder / f"{seed}.onnx", folder / "adapted.onnx"
    fit(make_run_config("convnet", {}, dataset_config(), dataset, TrainConfig(seed=seed)), dataset, run)
    checkpoint_to_onnx(load_checkpoint(run), source)
    order = np.random.default_rng(seed).permutation(dataset.splits.validation)
    few = np.concatenate([order, dataset.splits.train])
    few = few[dataset.y[few] < 2]  # validation has too few of them
    settings = [(name, change, order) for name, change in CHANGES.items()] + [(FEW_CLASSES, CHANGES["none"], few)]
    for name, change, rows in settings:
        show_progress(f"seed {seed}: {name}")
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


def rejections(source: Path, dataset: Dataset, drift: str, count: int) -> str:
    """Return the number of rejected draws of samples whose second half is changed, and the median of the largest z."""
    from normfold.export.adapt.recalibrate import recalibrate
    from normfold.export.adapt.samples import Samples
    from normfold.export.onnx_io.model_file import load_model

    rejected, max_z = 0, []
    for seed in range(DRAWS):
        show_progress(f"second half {drift}, {count} samples, draw {seed}")
        rows = np.random.default_rng(seed).choice(len(dataset.x), count, replace=False)
        parts = (CHANGES["none"], rows[: count // 2]), (DRIFTS[drift], rows[count // 2 :])
        given = np.concatenate([tensors(dataset, part, change) for change, part in parts])
        layers = recalibrate(load_model(source), Samples(count, partial(cut, given)), 16.0).layers
        gaps = [gap for layer in layers for gap in (layer.stability.means, layer.stability.variances)]
        rejected += any(gap.is_significant for gap in gaps)
        max_z.append(max(gap.z for gap in gaps))
    return f"n {count}: {rejected}, {np.median(max_z):.1f}"


def cut(given: npt.NDArray[np.float32], start: int, stop: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return a range of the samples, by the name of the network's input."""
    return {"input": given[start:stop]}


def dataset_config() -> DataConfig:
    """Return the data configuration, with enough rows for validation."""
    return DataConfig(validation_fraction=0.15)


def tensors(
    dataset: Dataset, rows: npt.NDArray[np.intp], change: Callable[[Images], Images]
) -> npt.NDArray[np.float32]:
    """Return the network's inputs for some images, changed in units of 0 to 1."""
    return dataset.preprocessing.standardise(FULL * change(np.asarray(dataset.x[rows], np.float64) / FULL))


def accuracy(path: Path, test: npt.NDArray[np.float32], dataset: Dataset) -> float:
    """Return the accuracy of an ONNX file on the test split."""
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
    """Import, wait for a line, recalibrate, print the seconds; each sample is generated when it is read."""
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
