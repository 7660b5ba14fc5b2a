"""Digits networks in int8, with data and from statistics alone: signal to noise, accuracy, agreement.

Networks are trained by the project's own training and kept in build/precision, so that a run that was stopped goes on.
`temporal` reads a picture's rows as the channels of a sequence, `unet` finds the digit's class for every bright pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.latency import session_of
from benchmarks.precision.bars import Bar
from benchmarks.precision.spread import spread_channels
from benchmarks.progress import show_progress
from normfold.contract.preprocess import ImagePreprocessing, Preprocessing
from normfold.export.fold.fold import fold
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.quantize.int8.quantize import quantize_int8
from normfold.models.data.data import DataConfig, Dataset, load_dataset

NETWORKS = ("convnet", "resnet", "mobilenet", "repvgg", "densenet", "mlp", "temporal", "unet")
WITHOUT_CLASSES = frozenset({"unet"})
"""Networks that classify pixels, and no pictures."""
KEPT = Path("build/precision")
DATA, STATISTICS = "data", "statistics"

MIN_SQNR_DB = {DATA: 28.0, STATISTICS: 25.0}
MAX_DROP = {DATA: 0.006, STATISTICS: 0.008}
MIN_AGREEMENT = 0.99
MAX_SPREAD_DROP = 0.01

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Figures:
    """One network of one seed, quantised one way."""

    network: str
    seed: int
    way: str
    sqnr_db: float
    accuracy: float
    drop: float
    agreement: float
    equalised: int
    spread: bool = False


def measure_digits(networks: list[str], seeds: list[int]) -> Iterator[Figures]:
    """Yield the figures of each network and seed, by either way, as trained and with its channels spread."""
    for network in networks:
        dataset = load_dataset(data_config(network))
        for seed in seeds:
            source = trained(network, seed, dataset)
            yield from quantised(network, seed, source, dataset)
            wide = source.with_suffix(".spread.onnx")
            spread_channels(source, wide, np.random.default_rng(seed))
            yield from quantised(network, seed, wide, dataset, spread=True)


def data_config(network: str) -> DataConfig:
    """Return where a network's data are; those that are made of the digits are written first."""
    if network not in ("temporal", "unet"):
        return DataConfig()
    KEPT.mkdir(parents=True, exist_ok=True)
    path, digits = KEPT / f"{network}.npz", load_dataset(DataConfig())
    every = np.arange(len(digits.x))
    pictures, y = np.asarray(digits.x[every][:, 0], np.float32), digits.y[every]
    if network == "temporal":
        np.savez(path, x=pictures, y=y, channels=np.array([f"row {row}" for row in range(pictures.shape[1])]))
    else:
        masks = np.where(pictures > 4, y[:, None, None] + 1, 0)
        np.savez(path, x=pictures, y=masks, value_max=np.float64(16))
    return DataConfig(source=f"npz:{path}")


def trained(network: str, seed: int, dataset: Dataset) -> Path:
    """Return the unfolded ONNX file of a trained network; it is trained unless an earlier run did."""
    from normfold.models.onnx.to_onnx import checkpoint_to_onnx
    from normfold.models.training.checkpoint import load_checkpoint, make_run_config
    from normfold.models.training.config import TrainConfig
    from normfold.models.training.train import fit

    path, run = KEPT / f"{network}-{seed}.onnx", KEPT / f"run-{network}-{seed}"
    if not path.is_file():
        show_progress(f"training {network}, seed {seed}")
        config = make_run_config(network, {}, data_config(network), dataset, TrainConfig(seed=seed))
        fit(config, dataset, run, resume=run.is_dir())
        checkpoint_to_onnx(load_checkpoint(run), path)
    return path


def quantised(network: str, seed: int, source: Path, dataset: Dataset, spread: bool = False) -> Iterator[Figures]:
    """Fold a network, quantise it by either way, and yield the figures of both on the test split."""
    folded = source.with_suffix(".folded.onnx")
    model = load_model(source)
    fold(model)
    save_model(model, folded)
    test, labels = dataset.tensors(dataset.splits.test), dataset.y[dataset.splits.test]
    wanted = run(folded, test)
    bounds = input_bounds(dataset.preprocessing)
    for way in (DATA, STATISTICS):
        show_progress(f"{network}, seed {seed}, from {way}")
        target = source.with_suffix(f".{way}.onnx")
        result = quantize_int8(
            folded,
            target,
            unfolded=source,
            samples={"input": dataset.tensors(dataset.splits.validation)} if way == DATA else None,
            input_ranges={} if bounds is None else {"input": bounds},
        )
        given = run(target, test)
        before, after = (float((each.argmax(axis=1) == labels).mean()) for each in (wanted, given))
        agreement = float((wanted.argmax(axis=1) == given.argmax(axis=1)).mean())
        yield Figures(
            *(network, seed, way, sqnr_db(wanted, given), before, before - after, agreement),
            *(len(result.equalised), spread),
        )


def input_bounds(preprocessing: Preprocessing) -> tuple[float, float] | None:
    """Return least and greatest of standardised pictures; None for what has no bounds."""
    if not isinstance(preprocessing, ImagePreprocessing):
        return None
    channels = list(zip(preprocessing.mean, preprocessing.std, strict=True))
    return min(-mean / std for mean, std in channels), max((1 - mean) / std for mean, std in channels)


def run(path: Path, rows: Float32Array) -> Float32Array:
    """Return the logits of an ONNX file, with all of ONNX Runtime's optimisations."""
    logits: Float32Array = session_of(path).run(None, {"input": rows})[0]
    return logits


def sqnr_db(wanted: Float32Array, given: Float32Array) -> float:
    """Return the ratio of signal to quantisation noise in decibels."""
    signal, noise = (np.sum(each.astype(np.float64) ** 2) for each in (wanted, wanted - given))
    return float(10 * np.log10(signal / noise)) if noise else np.inf


def bars(figures: list[Figures]) -> list[Bar]:
    """Return the bars of the means over the seeds of each network."""
    found = []
    for key in dict.fromkeys((each.network, each.way, each.spread) for each in figures):
        group = [each for each in figures if (each.network, each.way, each.spread) == key]
        network, way, spread = key
        sqnr, drop, agreement = (
            float(np.mean([getattr(each, name) for each in group])) for name in ("sqnr_db", "drop", "agreement")
        )
        subject = f"{network}{', spread' if spread else ''}, from {way}"
        if spread:
            found.append(Bar(subject, "accuracy drop", drop, maximum=MAX_SPREAD_DROP))
            continue
        found += [Bar(subject, "SQNR, dB", sqnr, minimum=MIN_SQNR_DB[way])]
        found += [Bar(subject, "accuracy drop", drop, maximum=MAX_DROP[way])]
        if network not in WITHOUT_CLASSES:
            found.append(Bar(subject, "agreement", agreement, minimum=MIN_AGREEMENT))
    return found
