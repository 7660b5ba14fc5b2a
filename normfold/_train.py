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
    NAMES,
    NUMBER,
    OPTIONS,
    PATH,
    PROGRESS,
    TEXT,
    Kind,
    check,
    check_optional,
    describe,
    whole_number,
)
from normfold._shared.packages import require_packages
from normfold._shared.paths import AnyPath
from normfold._shared.progress import Progress
from normfold.errors import ArgumentError
from normfold.models.training.loop.threads import let_waiting_threads_sleep

if TYPE_CHECKING:
    from pydantic import ValidationError

    from normfold.models.data.data import Dataset
    from normfold.models.fine_tuning.initial_weights import InitialWeights
    from normfold.models.training.checkpoint import RunConfig

DEFAULT_ARCH = "convnet"

PACKAGES = ("torch", "sklearn", "safetensors", "accelerate", "matplotlib")
"""Packages that training needs."""

TEXT_OR_NAMES = Kind("a string that is not empty, or a list of them", lambda v: TEXT.holds(v) or NAMES.holds(v))
WEIGHTS = Kind(
    "'balanced', or a list of numbers",
    lambda v: v == "balanced" if isinstance(v, str) else isinstance(v, Sequence) and all(map(NUMBER.holds, v)),
)
DATA = Kind(
    "'digits', 'npz:PATH' with arrays x and y, 'csv:PATH', 'parquet:PATH', 'images:DIR' or 'masks:DIR'", TEXT.holds
)

TRACKER = Kind("tensorboard or mlflow", lambda value: value in ("tensorboard", "mlflow"))

PATTERNS = Kind("a pattern, or a list of patterns", lambda value: TEXT.holds(value) or NAMES.holds(value))


@dataclass(frozen=True, repr=False)
class TrainResult:
    """A finished run.

    Attributes:
        folder: the run folder, with the checkpoint of `best_epoch`.
        config: the network, the data and how it was trained.
        epochs: passes over the training data, including those before a resume.
        best_epoch: the one with the best validation accuracy, or R² or F1: the metric of the task.
        seconds: of this call.
    """

    folder: Path
    config: RunConfig
    epochs: int
    best_epoch: int
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """Loss and the task's metrics on the validation and test splits."""
        return self.config.card.metrics

    @property
    def task(self) -> str:
        """classification, segmentation, regression or multi-label."""
        card = self.config.card
        if card.task is not None:
            return card.task.kind
        return "segmentation" if "test_mean_iou" in card.metrics else "classification"

    def __repr__(self) -> str:
        from normfold.contract.outputs.metric_names import METRIC_NAMES

        name = self.config.card.metric
        value = f"test {METRIC_NAMES[name]} {self.metrics[f'test_{name}']:.4f}"
        return f"TrainResult({str(self.folder)!r}: {value}, best epoch {self.best_epoch})"

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
    label_column: str | Sequence[str] | None = None,
    image_size: tuple[int, int] | int | None = None,
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
    weights: AnyPath | None = None,
    weights_key: str | None = None,
    strip_prefix: str | None = None,
    partial: bool = False,
    freeze: str | Sequence[str] | None = None,
    freeze_epochs: int | None = None,
    layer_decay: float | None = None,
    sync_bn: bool | None = None,
    task: str | None = None,
    unit: str | Sequence[str] | None = None,
    threshold: float | None = None,
    loss: str | None = None,
    metric: str | Sequence[str] | None = None,
    class_weights: str | Sequence[float] | None = None,
    sampler: str | None = None,
    layout: str | None = None,
    in_memory: bool | None = None,
    workers: int | None = None,
    validation_data: str | None = None,
    test_data: str | None = None,
    group_column: str | None = None,
    time_column: str | None = None,
    augment: Sequence[str] | None = None,
    mixup: float | None = None,
    schedule: str | None = None,
    warmup_fraction: float | None = None,
    accumulate: int | None = None,
    ema: float | None = None,
    channels_last: bool | None = None,
    compile: bool | None = None,  # noqa: A002 -- the name of the setting
    threads: int | None = None,
    keep: int | None = None,
    log: str | None = None,
    config: AnyPath | None = None,
    resume: bool = False,
    drop: Sequence[str] | None = None,
    category: Sequence[str] | None = None,
    missing: str | None = None,
    missing_value: Sequence[str] | None = None,
    progress: Progress = False,
) -> TrainResult:
    """Train a batch-normalised network, and write its best checkpoint to a run folder.

    An argument that is None takes its default, or with `resume` the value of the resumed run. With `resume`, only
    `epochs` and `patience` may be others than before: the rest of the learning rate's schedule then ends in the new
    last epoch; a schedule that has ended begins anew over the epochs that are added.

    Example:
        >>> import normfold
        >>> normfold.train("runs/digits", data="digits", epochs=20)
        TrainResult('runs/digits': test accuracy 0.9944, best epoch 17)

    Args:
        out: the run folder to write.
        arch: mlp, convnet, resnet, resnet18, resnet34, resnet50, preact_resnet, mobilenet, mobilenet_v2, densenet,
            densenet121, repvgg; temporal for sequences; unet for masks; or module:factory. Default convnet.
        arguments: of the network, by name; or as texts NAME=VALUE.
        data: digits, npz:PATH, csv:PATH, parquet:PATH, images:DIR or masks:DIR; a path without a kind is taken as what
            it is. Default digits.
        label_column: of a table, or a list of several; default the last.
        image_size: height and width of images, in pixels; one number for both.
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
        weights: to start from: a file of safetensors or torch.save, or a run folder, whose architecture is the default
            then. A head of another size is new; anything else that differs is an error. No code of a file runs.
        weights_key: of the state dict in that file, such as "state_dict_ema", if it holds several.
        strip_prefix: before the network's names in that file; default one under which the whole network is found.
        partial: load the tensors that fit, and leave the others as they are.
        freeze: pattern of names of parameters, or of layers around them, that are not trained, or a list of them;
            "*" in one is any text. BatchNorm layers among them keep their statistics.
        freeze_epochs: epochs after which what is frozen is trained too. Without `freeze`, everything but the new head
            is frozen. Default never.
        layer_decay: learning rate of a layer as a fraction of that of the next one; see `parameter_groups`. Default 1.
        sync_bn: compute BatchNorm's statistics over the rows of all processes. Default on GPUs.
        task: classification, segmentation, regression or multi-label. Default by the labels: floats are values to
            predict, 0 and 1 in several columns labels that do not exclude each other, masks segmentation.
        unit: of the values to predict, or a list of one for each; it is returned with predictions.
        threshold: of multi-label: probability from which a label is given. Default 0.5.
        loss: module:function of your own loss, called with outputs and targets. Default the task's.
        metric: module:function of your own metric, or a list; recorded beside the task's.
        class_weights: "balanced", or a number for each class, label or value, in the loss. Default equal.
        sampler: "balanced" draws every class as often. Default every row once in an epoch.
        layout: of images in npz:PATH: nchw, or nhwc where the channels come last. Default nchw.
        in_memory: whether images of a folder are held in memory, or decoded as they are needed. Default by their size:
            up to 1 GiB are held.
        workers: processes that decode images of a folder; they do not change the result. Default 0 for images in
            memory, otherwise one for each other processor, at most 4.
        validation_data: the validation split, as `data`. Default a fraction of `data`.
        test_data: the test split, as `data`. Default a fraction of `data`.
        group_column: column of a table whose rows of one value stay in one split; it is no input.
        time_column: column of a table whose latest rows are tested; it is no input.
        augment: random changes of training images, in order: flip, crop, colour, randaugment. Default none.
        mixup: alpha of mixup, which mixes samples of a batch: 0.2 mixes little, 1 evenly. Default 0, not at all.
        schedule: of the learning rate: one-cycle, cosine, step (a tenth after half, and after three quarters), or
            constant. Default one-cycle.
        warmup_fraction: of the steps, before the learning rate's peak. Default 0.3 for one-cycle, otherwise 0.
        accumulate: batches whose gradients make one step; BatchNorm's statistics are of each batch by itself.
            Default 1.
        ema: decay of an exponential moving average of the weights, such as 0.999. Its statistics are recalibrated after
            each epoch; the checkpoint holds the average where it validates better. Default none.
        channels_last: store weights of convolutions with channels last.
        compile: train the network compiled by torch.compile, which needs a C++ compiler.
        threads: of torch on CPU. Default torch's own number.
        keep: number of best epochs whose weights are kept, each as a run folder `epochs/epoch-N`. Default none.
        log: tensorboard or mlflow, which gets the metrics of every epoch.
        config: file of settings, .yaml or .json, or a run folder, whose settings are the defaults.
        resume: continue after the last completed epoch of the run in `out`.
        drop: columns of a table that are left out.
        category: columns of a table whose numbers or dates are categories, as texts are.
        missing: what missing values of a table become: mean, category (an input of its own) or refuse. Default the mean
            of numbers, a category of texts.
        missing_value: further texts that mean a missing value in a table, such as "-999".
        progress: True shows a bar on standard error; a function is called after each epoch, with its metrics in words.

    Raises:
        MissingPackageError: the extra `train` is not installed.
        ArgumentError: a value does not fit its argument.
        RunFolderError: `out` holds a run and `resume` is false, or holds none and it is true, or another one.
        DataError: the data cannot be found, read or split.
        ArchitectureError: there is no such network, or it cannot be built.
        WeightsError: the weights cannot be read, or are of another network.
        FreezingError: nothing fits `freeze`, or nothing would be trained.
        ConfigFileError: `config` cannot be read, or has a wrong field.
        CompilerError, CompilationError: `compile` is given, and the machine, or the network, does not allow it.
        FunctionError: a loss or metric of your own cannot be imported, fails, or returns no number.
        DivergedError, UnmeasurableError: the loss is no longer finite.
        PrecisionError, SynchronisationError: this machine cannot train so.
        OSError: the folder cannot be written.

    Warns:
        TrainingWarning: fewer than 32 or more than 256 rows in a batch, processes that are not synchronised, masks with
            a value such as 255 that usually marks pixels without a class, or a table's column of names or ids.
        WeightsWarning: what was chosen, converted or left out of a file of weights.
    """
    check(PATH, out=out)
    check(FLAG, resume=resume)
    check_optional(FLAG, in_memory=in_memory)
    check_optional(whole_number(0), workers=workers)
    check(PROGRESS, progress=progress)
    check_optional(TEXT, arch=arch, optimizer=optimizer, precision=precision, task=task, loss=loss, sampler=sampler)
    check_optional(TEXT_OR_NAMES, label_column=label_column, unit=unit, metric=metric)
    check_optional(WEIGHTS, class_weights=class_weights)
    check_optional(NUMBER, mixup=mixup, threshold=threshold)
    check_optional(TEXT, freeze_bn=freeze_bn, layout=layout)
    check_optional(OPTIONS, arguments=arguments)
    check_optional(DATA, data=data, validation_data=validation_data, test_data=test_data)
    check_optional(TEXT, missing=missing, group_column=group_column, time_column=time_column)
    check_optional(NAMES, augment=augment, drop=drop, category=category, missing_value=missing_value)
    check_optional(INTEGER, channels=channels, split_seed=split_seed, epochs=epochs, batch_size=batch_size)
    check_optional(INTEGER, patience=patience, seed=seed, ignore_index=ignore_index)
    check_optional(NUMBER, validation_fraction=validation_fraction, test_fraction=test_fraction, lr=lr)
    check_optional(NUMBER, weight_decay=weight_decay, label_smoothing=label_smoothing, clip_norm=clip_norm)
    check(FLAG, partial=partial)
    check_optional(FLAG, sync_bn=sync_bn)
    check_optional(PATH, weights=weights)
    check_optional(TEXT, weights_key=weights_key, strip_prefix=strip_prefix)
    check_optional(PATTERNS, freeze=freeze)
    check_optional(INTEGER, freeze_epochs=freeze_epochs)
    check_optional(NUMBER, layer_decay=layer_decay)
    check_optional(TEXT, schedule=schedule)
    check_optional(NUMBER, warmup_fraction=warmup_fraction, ema=ema)
    check_optional(INTEGER, accumulate=accumulate, threads=threads, keep=keep)
    check_optional(FLAG, channels_last=channels_last, compile=compile)
    check_optional(TRACKER, log=log)
    check_optional(PATH, config=config)
    if config is not None and resume:
        raise ArgumentError("`config` is for a new run; a run that is resumed has its own settings.")
    require_packages(*PACKAGES, extra="train", needed_for="normfold train")
    if log is not None:
        require_packages(log, extra=log, needed_for=f"`log` {log!r}")
    let_waiting_threads_sleep()  # before torch is imported
    from normfold.models.batchnorm.during_training.callback import StatisticsCallback
    from normfold.models.training.callback import call_all
    from normfold.models.training.outputs.config_file import read_config_file
    from normfold.models.training.outputs.trackers import tracked
    from normfold.models.training.resume import read_progress
    from normfold.models.training.run_folder import check_no_run
    from normfold.models.training.train import fit

    folder = Path(out)
    recorded: RunConfig | None
    if resume:
        recorded = read_progress(folder).config
    else:
        check_no_run(folder)  # before the data are read, which may take long
        recorded = None if config is None else read_config_file(Path(config), arch or DEFAULT_ARCH)
    of_data = {
        "source": data,
        "label_column": label_column if isinstance(label_column, str | None) else tuple(label_column),
        "image_size": (image_size, image_size) if type(image_size) is int else image_size,
        "channels": channels,
        "ignore_index": ignore_index,
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
        "split_seed": split_seed,
        "task": task,
        "unit": _names(unit),
        "layout": layout,
        "in_memory": in_memory,
        "validation_data": validation_data,
        "test_data": test_data,
        "group_column": group_column,
        "time_column": time_column,
        "drop": drop,
        "category": category,
        "missing": missing,
        "missing_value": missing_value,
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
        "freeze": (freeze,) if isinstance(freeze, str) else None if freeze is None else tuple(freeze),
        "freeze_epochs": freeze_epochs,
        "layer_decay": layer_decay,
        "sync_bn": sync_bn,
        "loss": loss,
        "metric": _names(metric),
        "class_weights": class_weights,
        "sampler": sampler,
        "threshold": threshold,
        "augment": None if augment is None else tuple(augment),
        "mixup": mixup,
        "schedule": schedule,
        "warmup_fraction": warmup_fraction,
        "accumulate": accumulate,
        "ema": ema,
        "channels_last": channels_last,
        "compile": compile,
        "threads": threads,
        "keep": keep,
    }
    initial = initial_weights(weights, weights_key, strip_prefix, partial, recorded)
    run_config, dataset = make_config(
        arch, arguments, _only_given(of_data), _only_given(of_training), recorded, initial, workers
    )
    callback = _make_callback(progress)
    tracker = nullcontext(callback) if log is None else tracked(callback, log, run_config, folder)
    statistics = StatisticsCallback(folder)
    with getattr(callback, "bar", nullcontext()), tracker as tracking:
        together = call_all(statistics, *([] if tracking is None else [tracking]))
        found = fit(run_config, dataset, folder, resume=resume, callback=together)
    statistics.finish(found.config)
    return TrainResult(found.folder, found.config, found.epochs, found.best_epoch, found.seconds)


def make_config(
    arch: str | None,
    arguments: Mapping[str, Any] | Sequence[str] | None,
    of_data: dict[str, Any],
    of_training: dict[str, Any],
    recorded: RunConfig | None,
    initial: InitialWeights | None,
    workers: int | None,
) -> tuple[RunConfig, Dataset]:
    """Lay what was given over the defaults, or over the settings of a file, or of the run to be resumed."""
    from pydantic import ValidationError

    from normfold.models.architectures.registry import find_factory, parse_options
    from normfold.models.data.data import DataConfig, load_dataset
    from normfold.models.training.checkpoint import make_run_config
    from normfold.models.training.config import TrainConfig

    name, options = DEFAULT_ARCH, dict[str, Any]()
    before: dict[str, dict[str, Any]] = {"data": {}, "train": {}}
    kept: dict[str, Any] = {}  # options of the run whose weights are taken
    if recorded is not None:
        name, options = recorded.architecture.name, recorded.architecture.options
        before = recorded.model_dump(include={"data", "train"})
    elif initial is not None and arch is None and Path(initial.path).is_dir():
        name, kept = _architecture_of(Path(initial.path), name)
    name = arch or name
    if arguments:
        options = dict(arguments) if isinstance(arguments, Mapping) else parse_options(arguments)
    options = kept | options
    find_factory(name)  # a wrong name is an error before the data are read
    try:
        data_config = DataConfig.model_validate(before["data"] | of_data)
        train_config = TrainConfig.model_validate(before["train"] | of_training)
    except ValidationError as error:
        raise ArgumentError(_sentence(error)) from None
    dataset = load_dataset(data_config, workers)
    return make_run_config(name, options, data_config, dataset, train_config, initial), dataset


def initial_weights(
    weights: AnyPath | None, key: str | None, prefix: str | None, partial: bool, recorded: RunConfig | None
) -> InitialWeights | None:
    """Return what is recorded of the weights to start from: as given, or those of the run to be resumed."""
    from normfold.models.fine_tuning.initial_weights import describe_weights
    from normfold.models.weight_files.load import WeightsFile

    if weights is not None:
        return describe_weights(WeightsFile(Path(weights), key, prefix, partial))
    for name, given in (("weights_key", key), ("strip_prefix", prefix), ("partial", partial or None)):
        if given is not None:
            raise ArgumentError(f"`{name}` is for `weights`, and none are given.")
    return None if recorded is None else recorded.initial_weights


def _architecture_of(folder: Path, name: str) -> tuple[str, dict[str, Any]]:
    """Return name and options of a run folder's architecture, or the name given if the folder is none."""
    from normfold.models.training.checkpoint import CONFIG_NAME, load_config

    if not (folder / CONFIG_NAME).is_file():
        return name, {}
    architecture = load_config(folder).architecture
    return architecture.name, architecture.options


def _make_callback(progress: Progress) -> Any:
    """Return a TrainingCallback, or None where nothing is shown."""
    from normfold.display.terminal.train_progress import make_bar_callback, make_line_callback

    if callable(progress):
        return make_line_callback(progress)
    return make_bar_callback() if progress else None


def _names(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return (given,) if isinstance(given, str) else None if given is None else tuple(given)


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
