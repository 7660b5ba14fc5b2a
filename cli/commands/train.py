"""`normfold train`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from normfold.cli.completion import complete_architecture
from normfold.cli.signals import exit_code, raise_on_sigterm
from normfold.cli.warnings import warnings_as_sentences
from normfold.contract.errors import InputError, SetupError
from normfold.display.terminal.console import err, out, print_json
from normfold.display.terminal.train_progress import is_main_process

if TYPE_CHECKING:
    from normfold import TrainResult

DATA, TRAINING = "Data", "Training"


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
        typer.Option(help="digits, npz:PATH, csv:PATH or images:DIR.", show_default="digits", rich_help_panel=DATA),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Label column of csv:PATH.", show_default="the last", rich_help_panel=DATA)
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Size for images:DIR; 64 is 64x64.", rich_help_panel=DATA),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="Channels for images:DIR: 1 or 3.", show_default="3", rich_help_panel=DATA)
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
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a batch-normalised network and write its best checkpoint to a run folder.

    Architectures: mlp, convnet, resnet, resnet18, resnet34, resnet50, preact_resnet, mobilenet, mobilenet_v2, densenet,
    densenet121, repvgg; temporal for sequences; unet for masks.

    Example: `normfold train --arch convnet --data digits --out runs/digits`
    """
    from normfold import train as train_network

    try:
        with raise_on_sigterm(), warnings_as_sentences():
            result = train_network(
                folder,
                arch=arch,
                arguments=arg,
                data=data,
                label_column=label_column,
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
                resume=resume,
                progress=True,
            )
    except KeyboardInterrupt as error:
        if is_main_process():
            _print_interruption(folder)
        raise typer.Exit(exit_code(error)) from None
    except OSError as error:
        raise _write_error(error, folder) from None
    if is_main_process():
        _print_result(result, as_json)


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
    metrics = result.metrics
    mean_iou = {name.removeprefix("test_"): value for name, value in metrics.items() if name.endswith("mean_iou")}
    if as_json:
        print_json(
            {
                "accuracy": metrics["test_accuracy"],
                "loss": metrics["test_loss"],
                **mean_iou,
                "validation_accuracy": metrics["validation_accuracy"],
                "validation_loss": metrics["validation_loss"],
                "epochs": result.epochs,
                "best_epoch": result.best_epoch,
                "seconds": round(result.seconds, 3),
                "checkpoint": str(result.folder),
                "arch": result.config.architecture.name,
                "data": result.config.card.origin.partition(" trained on ")[2],
            }
        )
        return
    table = Table(show_header=False, box=None)
    table.add_row("test accuracy", f"{metrics['test_accuracy']:.4f}")
    if mean_iou:
        table.add_row("test mean IoU", f"{mean_iou['mean_iou']:.4f}")
    table.add_row("validation accuracy", f"{metrics['validation_accuracy']:.4f} in epoch {result.best_epoch}")
    table.add_row("epochs", f"{result.epochs} in {result.seconds:.1f} s")
    table.add_row("checkpoint", str(result.folder))
    out.print(table)
