"""`normfold.train`."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold._shared.argument_checks import (
    FLAG,
    INTEGER,
    NUMBER,
    OPTIONS,
    PATH,
    PROGRESS,
    TEXT,
    Kind,
    check,
    check_optional,
    describe,
)
from normfold._shared.packages import require_packages
from normfold._shared.paths import AnyPath
from normfold._shared.progress import Progress
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from normfold.models.data.data import Dataset
    from normfold.models.training.checkpoint import RunConfig

DEFAULT_ARCH = "convnet"

PACKAGES = ("torch", "sklearn", "safetensors", "accelerate", "matplotlib")
"""Packages that training needs."""

DATA = Kind("'digits', 'npz:PATH' with arrays x and y, 'csv:PATH' or 'images:DIR'", TEXT.holds)


@dataclass(frozen=True, repr=False)
class TrainResult:
    """A finished run.

    Attributes:
        folder: the run folder, with the checkpoint of `best_epoch`.
        config: the network, the data and how it was trained.
        epochs: passes over the training data, including those before a resume.
        best_epoch: the one with the best validation accuracy.
        seconds: of this call.
    """

    folder: Path
    config: RunConfig
    epochs: int
    best_epoch: int
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """Loss and accuracy on the validation and test splits, and mean IoU where labels are masks."""
        return self.config.card.metrics

    def __repr__(self) -> str:
        accuracy = self.metrics["test_accuracy"]
        return f"TrainResult({str(self.folder)!r}: test accuracy {accuracy:.4f}, best epoch {self.best_epoch})"

    def _repr_html_(self) -> str | None:
        """Return the plot of loss and accuracy by epoch for notebooks; None if the file is gone."""
        from normfold.models.training.curves import CURVES_NAME

        plot = self.folder / CURVES_NAME
        if not plot.is_file():
            return None
        return f'<img alt="Loss and accuracy" src="data:image/png;base64,{b64encode(plot.read_bytes()).decode()}">'


def train(
    out: AnyPath,
    *,
    arch: str | None = None,
    arguments: Mapping[str, Any] | Sequence[str] | None = None,
    data: str | None = None,
    label_column: str | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    ignore_index: int | None = None,
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
    split_seed: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    label_smoothing: float | None = None,
    patience: int | None = None,
    clip_norm: float | None = None,
    freeze_bn: str | None = None,
    precision: str | None = None,
    seed: int | None = None,
    resume: bool = False,
    progress: Progress = False,
) -> TrainResult:
    """Train a batch-normalised network, and write its best checkpoint to a run folder.

    An argument that is None takes its default, or with `resume` the value of the resumed run.

    Example:
        >>> import normfold
        >>> normfold.train("runs/digits", data="digits", epochs=20)
        TrainResult('runs/digits': test accuracy 0.9944, best epoch 17)

    Args:
        out: the run folder to write.
        arch: mlp, convnet, resnet, resnet18, resnet34, resnet50, preact_resnet, mobilenet, mobilenet_v2, densenet,
            densenet121, repvgg; temporal for sequences; unet for masks; or module:factory. Default convnet.
        arguments: of the network, by name; or as texts NAME=VALUE.
        data: digits, npz:PATH, csv:PATH or images:DIR. Default digits.
        label_column: of a CSV; default the last.
        image_size: height and width of images, in pixels.
        channels: of images: 1 for greyscale, 3 for RGB. Default 3.
        ignore_index: value in masks of pixels without a class, such as 255; they count nowhere. Default none.
        validation_fraction: of each class; used to choose the best epoch. Default 0.1.
        test_fraction: of each class; used once, at the end. Default 0.2.
        split_seed: of the splits. Default 0.
        epochs: passes over the training data. Default 20.
        batch_size: rows in a step, over all processes together. Default 64.
        optimizer: adamw or sgd. Default adamw.
        lr: peak learning rate. Default 0.005, of sgd 0.1.
        weight_decay: of weights; excludes scales, shifts and biases. Default 0.0005.
        label_smoothing: probability that is distributed over all classes. Default 0.1.
        patience: epochs without a better validation result, after which training stops. Default never.
        clip_norm: largest norm of the gradient. Default no limit.
        freeze_bn: pattern of names of BatchNorm layers that keep their statistics, scale and shift; "*" for all.
            Default those that the network has in eval mode.
        precision: of the arithmetic: fp32, bf16 or fp16; or float32, bfloat16, float16. Default fp32.
        seed: of the initial weights, the order of rows and dropout. Default 0.
        resume: continue after the last completed epoch of the run in `out`.
        progress: True shows a bar on standard error; a function is called after each epoch, with its metrics in words.

    Raises:
        MissingPackageError: the extra `train` is not installed.
        ArgumentError: a value does not fit its argument.
        RunFolderError: `out` holds a run and `resume` is false, or holds none and it is true, or another one.
        DataError: the data cannot be found, read or split.
        ArchitectureError: there is no such network, or it cannot be built.
        DivergedError, UnmeasurableError: the loss is no longer finite.
        PrecisionError: this machine cannot train in that precision.
        OSError: the folder cannot be written.

    Warns:
        TrainingWarning: fewer than 32 or more than 256 rows in a batch, processes that are not synchronised, or masks
            with a value such as 255 that usually marks pixels without a class.
    """
    check(PATH, out=out)
    check(FLAG, resume=resume)
    check(PROGRESS, progress=progress)
    check_optional(TEXT, arch=arch, label_column=label_column, optimizer=optimizer, precision=precision)
    check_optional(TEXT, freeze_bn=freeze_bn)
    check_optional(OPTIONS, arguments=arguments)
    check_optional(DATA, data=data)
    check_optional(INTEGER, channels=channels, split_seed=split_seed, epochs=epochs, batch_size=batch_size)
    check_optional(INTEGER, patience=patience, seed=seed, ignore_index=ignore_index)
    check_optional(NUMBER, validation_fraction=validation_fraction, test_fraction=test_fraction, lr=lr)
    check_optional(NUMBER, weight_decay=weight_decay, label_smoothing=label_smoothing, clip_norm=clip_norm)
    require_packages(*PACKAGES, extra="train", needed_for="normfold train")
    from normfold.models.batchnorm.during_training.callback import StatisticsCallback
    from normfold.models.training.callback import call_all
    from normfold.models.training.resume import read_progress
    from normfold.models.training.run_folder import check_no_run
    from normfold.models.training.train import fit

    folder = Path(out)
    if resume:
        recorded = read_progress(folder).config
    else:
        check_no_run(folder)  # before the data are read, which may take long
        recorded = None
    of_data = {
        "source": data,
        "label_column": label_column,
        "image_size": image_size,
        "channels": channels,
        "ignore_index": ignore_index,
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
        "split_seed": split_seed,
    }
    of_training = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": lr,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "patience": patience,
        "clip_norm": clip_norm,
        "freeze_bn": freeze_bn,
        "precision": precision,
        "seed": seed,
    }
    config, dataset = _make_config(arch, arguments, _only_given(of_data), _only_given(of_training), recorded)
    callback = _make_callback(progress)
    statistics = StatisticsCallback(folder)
    with getattr(callback, "bar", nullcontext()):
        found = fit(
            config,
            dataset,
            folder,
            resume=resume,
            callback=call_all(statistics, *([] if callback is None else [callback])),
        )
    statistics.finish(found.config)
    return TrainResult(found.folder, found.config, found.epochs, found.best_epoch, found.seconds)


def _make_config(
    arch: str | None,
    arguments: Mapping[str, Any] | Sequence[str] | None,
    of_data: dict[str, Any],
    of_training: dict[str, Any],
    recorded: RunConfig | None,
) -> tuple[RunConfig, Dataset]:
    """Lay what was given over the defaults, or over the settings of the run to be resumed."""
    from pydantic import ValidationError

    from normfold.models.architectures.registry import find_factory, parse_options
    from normfold.models.data.data import DataConfig, load_dataset
    from normfold.models.training.checkpoint import make_run_config
    from normfold.models.training.config import TrainConfig

    name, options = DEFAULT_ARCH, dict[str, Any]()
    before: dict[str, dict[str, Any]] = {"data": {}, "train": {}}
    if recorded is not None:
        name, options = recorded.architecture.name, recorded.architecture.options
        before = recorded.model_dump(include={"data", "train"})
    name = arch or name
    if arguments:
        options = dict(arguments) if isinstance(arguments, Mapping) else parse_options(arguments)
    find_factory(name)  # a wrong name is an error before the data are read
    try:
        data_config = DataConfig.model_validate(before["data"] | of_data)
        train_config = TrainConfig.model_validate(before["train"] | of_training)
    except ValidationError as error:
        raise ArgumentError(_sentence(error)) from None
    dataset = load_dataset(data_config)
    return make_run_config(name, options, data_config, dataset, train_config), dataset


def _make_callback(progress: Progress) -> Any:
    """Return a TrainingCallback, or None where nothing is shown."""
    from normfold.display.terminal.train_progress import make_bar_callback, make_line_callback

    if callable(progress):
        return make_line_callback(progress)
    return make_bar_callback() if progress else None


def _only_given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _sentence(error: ValidationError) -> str:
    """Return a sentence about the first invalid argument, with its name in back quotes."""
    first = error.errors()[0]
    if not first["loc"]:  # of several arguments together
        text = first["msg"].removeprefix("Value error, ")
        return re.sub(r"[a-z]+(_[a-z]+)+", r"`\g<0>`", text) + "."
    problem = first["msg"].replace("Input should be", "must be", 1)
    problem = re.sub("[0-9]{12,}", lambda digits: f"{float(digits[0]):g}", problem)
    name = "data" if first["loc"][0] == "source" else first["loc"][0]
    return f"`{name}` {problem}, not {describe(first['input'])}."
