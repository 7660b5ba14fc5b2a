"""`normfold train`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from normfold.cli.completion import complete_architecture
from normfold.cli.signals import exit_code, raise_on_sigterm
from normfold.cli.warnings import warnings_as_sentences
from normfold.contract.errors import InputError, SetupError
from normfold.display.terminal.console import err, out, print_json
from normfold.display.terminal.train_progress import is_main_process, metric_name, metric_text

if TYPE_CHECKING:
    from normfold import LearningRateResult, TrainResult

DATA, TRAINING, FINE_TUNING, TASK, LOOP = "Data", "Training", "Fine-tuning", "Task", "Training loop"
TABLES = "Tables (csv:PATH, parquet:PATH)"
AUGMENTATION = "Augmentation"


def train(
    folder: Annotated[Path, typer.Option("--out", help="Run folder to write, or to resume.")],
    arch: Annotated[
        str | None,
        typer.Option(
            help="Architecture, or your own module:factory.",
            show_default="convnet",
            autocompletion=complete_architecture,
        ),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Option of the architecture, such as widths=[32,64]; repeatable."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, a file or a folder: npz:PATH, csv:PATH, parquet:PATH, images:DIR or masks:DIR.",
            show_default="digits",
            rich_help_panel=DATA,
        ),
    ] = None,
    label_column: Annotated[
        list[str] | None,
        typer.Option(
            help="Label column of a table; repeatable, or NAME,NAME.", show_default="the last", rich_help_panel=DATA
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Size for images of a folder; 64 is 64x64.", rich_help_panel=DATA),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(help="Channels for images of a folder: 1 or 3.", show_default="3", rich_help_panel=DATA),
    ] = None,
    ignore_index: Annotated[
        int | None,
        typer.Option(
            help="Value in masks of pixels without a class, such as 255.", show_default="none", rich_help_panel=DATA
        ),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the data for choosing the best epoch.", show_default="0.1", rich_help_panel=DATA
        ),
    ] = None,
    test_fraction: Annotated[
        float | None,
        typer.Option(help="Fraction of the data for the final test.", show_default="0.2", rich_help_panel=DATA),
    ] = None,
    split_seed: Annotated[
        int | None, typer.Option(help="Seed of the splits.", show_default="0", rich_help_panel=DATA)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training split.", show_default="20", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows per step.", show_default="64", rich_help_panel=TRAINING)
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adamw or sgd.", show_default="adamw", rich_help_panel=TRAINING)
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate.", show_default="0.005; sgd 0.1", rich_help_panel=TRAINING),
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(
            help="Weight decay; excludes BatchNorm and biases.", show_default="0.0005", rich_help_panel=TRAINING
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Label smoothing of the loss.", show_default="0.1", rich_help_panel=TRAINING)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after this number of epochs without improvement.", show_default="never", rich_help_panel=TRAINING
        ),
    ] = None,
    clip_norm: Annotated[
        float | None,
        typer.Option(help="Maximum norm of the gradient.", show_default="no limit", rich_help_panel=TRAINING),
    ] = None,
    freeze_bn: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="BatchNorm layers that keep statistics, scale and shift: * for all, or a pattern of names.",
            show_default="those in eval mode",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, bf16 or fp16; or float32, bfloat16, float16.",
            show_default="fp32",
            metavar="NAME",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of initial weights, order of rows and dropout.", show_default="0", rich_help_panel=TRAINING
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Start from these weights: safetensors, a state dict, a checkpoint, or a run folder.",
            metavar="FILE",
            rich_help_panel=FINE_TUNING,
        ),
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(
            help="Of the state dict in --weights, such as state_dict_ema.", metavar="KEY", rich_help_panel=FINE_TUNING
        ),
    ] = None,
    strip_prefix: Annotated[
        str | None,
        typer.Option(help="Before the network's names in --weights.", metavar="PREFIX", rich_help_panel=FINE_TUNING),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Load of --weights what fits.", rich_help_panel=FINE_TUNING)
    ] = False,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Names of parameters or layers that are not trained, such as 'stem*'; BatchNorm among them keeps its "
            "statistics. Repeatable.",
            rich_help_panel=FINE_TUNING,
        ),
    ] = None,
    freeze_epochs: Annotated[
        int | None,
        typer.Option(
            help="Train what is frozen after this number of epochs; alone, it freezes all but a new head.",
            show_default="never",
            rich_help_panel=FINE_TUNING,
        ),
    ] = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of each layer as a fraction of the next one's, such as 0.8.",
            show_default="1",
            rich_help_panel=FINE_TUNING,
        ),
    ] = None,
    sync_bn: Annotated[
        bool | None,
        typer.Option(
            "--sync-bn/--no-sync-bn",
            help="BatchNorm's statistics over the rows of all processes.",
            show_default="on GPUs",
            rich_help_panel=FINE_TUNING,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="classification, segmentation, regression or multi-label.",
            show_default="by the labels",
            rich_help_panel=TASK,
        ),
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(help="Unit of predicted values, such as °C; repeatable, one a value.", rich_help_panel=TASK),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability from which a label is given.", show_default="0.5", rich_help_panel=TASK),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Your own loss of outputs and targets.",
            show_default="the task's",
            rich_help_panel=TASK,
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:FUNCTION", help="Your own metric beside the task's; repeatable.", rich_help_panel=TASK
        ),
    ] = None,
    class_weights: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Weights of classes in the loss: balanced, or numbers such as 1,2.5.",
            show_default="equal",
            rich_help_panel=TASK,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="balanced: every class is drawn as often.",
            show_default="every row once",
            rich_help_panel=TASK,
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="AXES",
            help="nhwc for npz:PATH with images (N, H, W, C).",
            show_default="nchw",
            rich_help_panel=DATA,
        ),
    ] = None,
    in_memory: Annotated[
        bool | None,
        typer.Option(
            "--in-memory/--from-files",
            help="Hold the images of a folder in memory, or decode them as they are needed.",
            show_default="by size, up to 1 GiB in memory",
            rich_help_panel=DATA,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that decode images of a folder.",
            show_default="up to 4 with --from-files",
            rich_help_panel=DATA,
        ),
    ] = None,
    validation_data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Validation split, as --data.", show_default="a fraction", rich_help_panel=DATA
        ),
    ] = None,
    test_data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Test split, as --data.", show_default="a fraction", rich_help_panel=DATA),
    ] = None,
    group_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Column of a table whose rows of one value stay in one split.",
            show_default="none",
            rich_help_panel=DATA,
        ),
    ] = None,
    time_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Column of a table whose latest rows are tested.",
            show_default="none",
            rich_help_panel=DATA,
        ),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Random changes of training images: flip, crop, colour, randaugment, by commas.",
            show_default="none",
            rich_help_panel=AUGMENTATION,
        ),
    ] = None,
    mixup: Annotated[
        float | None,
        typer.Option(
            metavar="ALPHA",
            help="Mix samples of a batch: 0.2 mixes little, 1 evenly.",
            show_default="0.0",
            rich_help_panel=AUGMENTATION,
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column that is left out; repeatable.", rich_help_panel=TABLES),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Column whose numbers or dates are categories, as texts are; repeatable.",
            rich_help_panel=TABLES,
        ),
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="What missing values become: mean, category (an input that says so) or refuse.",
            show_default="mean of numbers, category of texts",
            rich_help_panel=TABLES,
        ),
    ] = None,
    missing_value: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Text that means a missing value, beside NA, NaN, null, ? and an empty cell; repeatable.",
            rich_help_panel=TABLES,
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Of the learning rate: one-cycle, cosine, step or constant.",
            metavar="NAME",
            show_default="one-cycle",
            rich_help_panel=LOOP,
        ),
    ] = None,
    warmup_fraction: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the steps before the peak learning rate.",
            show_default="0.3; others than one-cycle 0",
            rich_help_panel=LOOP,
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            help="Batches whose gradients make one step; BatchNorm's statistics are of each batch by itself.",
            show_default="1",
            rich_help_panel=LOOP,
        ),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(
            metavar="DECAY",
            help="Average the weights over the steps, with a decay such as 0.999; the average is saved where it "
            "validates better.",
            show_default="no average",
            rich_help_panel=LOOP,
        ),
    ] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last/--no-channels-last",
            help="Weights of convolutions in memory with channels last.",
            show_default="no",
            rich_help_panel=LOOP,
        ),
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile the network by torch.compile.",
            show_default="no",
            rich_help_panel=LOOP,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of torch on CPU.", show_default="torch's own number", rich_help_panel=LOOP),
    ] = None,
    find_lr: Annotated[
        bool,
        typer.Option(
            "--find-lr",
            help="Begin no run: suggest a learning rate, and write OUT/learning-rate.png.",
            rich_help_panel=LOOP,
        ),
    ] = False,
    keep: Annotated[
        int | None,
        typer.Option(
            help="Keep the weights of this number of best epochs, in OUT/epochs.",
            show_default="the best one's",
            rich_help_panel=LOOP,
        ),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="tensorboard or mlflow: log the metrics of every epoch there too.",
            show_default="neither",
            rich_help_panel=LOOP,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Take defaults from a .yaml or .json, or from a run folder, which this reproduces.",
            rich_help_panel=LOOP,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in --out; --epochs may be another number.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a batch-normalised network and write its best checkpoint to a run folder.

    Architectures: mlp, convnet, resnet, resnet18, resnet34, resnet50, preact_resnet, mobilenet, mobilenet_v2, densenet,
    densenet121, repvgg; temporal for sequences; unet for masks.

    Example: `normfold train --arch convnet --data digits --out runs/digits`
    """
    from normfold import LearningRateResult, find_learning_rate
    from normfold import train as train_network

    try:
        with raise_on_sigterm(), warnings_as_sentences():
            act = find_learning_rate if find_lr else train_network
            result = act(
                folder,
                arch=arch,
                arguments=arg,
                data=data,
                label_column=label_column or None,
                image_size=None if image_size is None else parse_size(image_size),
                channels=channels,
                ignore_index=ignore_index,
                validation_fraction=validation_fraction,
                test_fraction=test_fraction,
                split_seed=split_seed,
                epochs=epochs,
                batch_size=batch_size,
                optimizer=optimizer,
                lr=lr,
                weight_decay=weight_decay,
                label_smoothing=label_smoothing,
                patience=patience,
                clip_norm=clip_norm,
                freeze_bn=freeze_bn,
                precision=precision,
                seed=seed,
                weights=weights,
                weights_key=weights_key,
                strip_prefix=strip_prefix,
                partial=partial,
                freeze=freeze or None,
                freeze_epochs=freeze_epochs,
                layer_decay=layer_decay,
                sync_bn=sync_bn,
                task=task,
                unit=unit or None,
                threshold=threshold,
                loss=loss,
                metric=metric or None,
                class_weights=None if class_weights is None else parse_weights(class_weights),
                sampler=sampler,
                layout=layout,
                in_memory=in_memory,
                workers=workers,
                validation_data=validation_data,
                test_data=test_data,
                group_column=group_column,
                time_column=time_column,
                augment=None if augment is None else [name.strip() for name in augment.split(",")],
                mixup=mixup,
                schedule=schedule,
                warmup_fraction=warmup_fraction,
                accumulate=accumulate,
                ema=ema,
                channels_last=channels_last,
                compile=compile_,
                threads=threads,
                keep=keep,
                log=log,
                config=config,
                resume=resume,
                drop=drop or None,
                category=category or None,
                missing=missing,
                missing_value=missing_value or None,
                progress=True,
            )
    except KeyboardInterrupt as error:
        if is_main_process():
            _print_interruption(folder)
        raise typer.Exit(exit_code(error)) from None
    except OSError as error:
        raise _write_error(error, folder) from None
    if not is_main_process():
        return
    if isinstance(result, LearningRateResult):
        _print_learning_rate(result, as_json)
    else:
        _print_result(result, as_json)


def _print_learning_rate(result: LearningRateResult, as_json: bool) -> None:
    if as_json:
        print_json({"lr": result.lr, "picture": str(result.picture)})
        return
    out.print(f"suggested learning rate {result.lr:g}; picture {result.picture}", markup=False)


def parse_size(text: str) -> tuple[int, int]:
    """Read a size in pixels, given as HEIGHTxWIDTH, or as one number for both.

    Raises:
        InputError: not one or two positive whole numbers, with an x between.
    """
    height, x, width = text.lower().partition("x")
    if not x:
        width = height
    if not all(re.fullmatch("0*[1-9][0-9]{0,8}", side, re.ASCII) for side in (height, width)):
        raise InputError(f"--image-size {text[:40]!r} is not HEIGHTxWIDTH or one number for both, such as 32x48 or 32.")
    return int(height), int(width)


def parse_weights(text: str) -> str | list[float]:
    """Read class weights: balanced, or numbers with commas between.

    Raises:
        InputError: neither.
    """
    if text == "balanced":
        return text
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--class-weights {text[:40]!r} is neither balanced nor numbers with commas between, for example 1,2.5."
        ) from None


def _resume_advice(folder: Path) -> str | None:
    """Return how to resume the run, or None if there is nothing to resume."""
    from normfold.models.training.config import STATE_PATH  # imports no torch, which may be what was interrupted

    try:
        if not (folder / STATE_PATH).exists():
            return None
    except OSError:  # a name too long for the file system, or a folder without permission
        return None
    return f"resume after the last finished epoch with: normfold train --out {shlex.quote(str(folder))} --resume"


def _print_interruption(folder: Path) -> None:
    advice = _resume_advice(folder)
    if advice is None:
        err.print("Interrupted before the first epoch; there is nothing to resume.")
    else:
        err.print(f"Interrupted; {advice}", markup=False)


def _write_error(error: OSError, folder: Path) -> SetupError:
    advice = _resume_advice(folder)
    end = "." if advice is None else f"; when this is fixed, {advice}"
    return SetupError(f"{str(error.filename or folder)!r} cannot be written: {error.strerror or error}{end}")


def _print_result(result: TrainResult, as_json: bool) -> None:
    metrics, decisive = result.metrics, result.config.card.metric
    of_test = {name.removeprefix("test_"): value for name, value in metrics.items() if name.startswith("test_")}
    of_validation = {name: value for name, value in metrics.items() if name.startswith("validation_")}
    if as_json:
        print_json(
            {
                "task": result.task,
                decisive: of_test[decisive],
                **of_test,
                **of_validation,
                "epochs": result.epochs,
                "best_epoch": result.best_epoch,
                "averaged": result.config.averaged,
                "seconds": round(result.seconds, 3),
                "checkpoint": str(result.folder),
                "arch": result.config.architecture.name,
                "data": result.config.title.partition(" trained on ")[2],
            }
        )
        return
    table = Table(show_header=False, box=None)
    for name, value in of_test.items():
        if name != "loss":
            table.add_row(Text(f"test {metric_name(name)}"), Text(metric_text(name, value, result.config.card)))
    best = f"{metrics[f'validation_{decisive}']:.4f} in epoch {result.best_epoch}"
    if result.config.train is not None and result.config.train.ema is not None:
        best += ", of averaged weights" if result.config.averaged else ", of weights that are not averaged"
    table.add_row(f"validation {metric_name(decisive)}", best)
    table.add_row("epochs", f"{result.epochs} in {result.seconds:.1f} s")
    table.add_row("checkpoint", str(result.folder))
    out.print(table)
