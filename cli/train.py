"""`normfold train`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.console import err, out, print_json, warn
from cli.packages import require_packages
from contract.errors import InputError, SetupError

if TYPE_CHECKING:
    from models.checkpoint import RunConfig
    from models.data import Dataset
    from models.metrics import EpochMetrics
    from models.train import FitResult

NEEDED = ("torch", "sklearn", "safetensors", "accelerate", "matplotlib")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

DEFAULT_ARCH, DEFAULT_DATA = "convnet", "digits"

DATA, TRAINING = "Data", "Training"


def train(
    folder: Annotated[Path, typer.Option("--out", help="Run folder to write.")],
    arch: Annotated[str | None, typer.Option(help="Network, or module:factory (convnet).")] = None,
    arg: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="For the network; repeatable.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="digits, npz:PATH, csv:PATH or images:DIR (digits).", rich_help_panel=DATA),
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="Of a csv (the last).", rich_help_panel=DATA)] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Of images, in pixels.", rich_help_panel=DATA)
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Of images: 1 or 3 (3).", rich_help_panel=DATA)] = None,
    validation_fraction: Annotated[
        float | None, typer.Option(help="Picks the best epoch (0.1).", rich_help_panel=DATA)
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Held out to the end (0.2).", rich_help_panel=DATA)
    ] = None,
    split_seed: Annotated[int | None, typer.Option(help="Of the splits (0).", rich_help_panel=DATA)] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data (20).", rich_help_panel=TRAINING)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows in a step (64).", rich_help_panel=TRAINING)] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or sgd (adamw).", rich_help_panel=TRAINING)] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate (0.005; sgd 0.1).", rich_help_panel=TRAINING),
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(help="Spares norms and biases (0.0005).", rich_help_panel=TRAINING),
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="In the loss (0.1).", rich_help_panel=TRAINING)] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Epochs without gain, then stop (never).", rich_help_panel=TRAINING),
    ] = None,
    clip_norm: Annotated[
        float | None, typer.Option(help="Of the gradient (no limit).", rich_help_panel=TRAINING)
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16 (fp32).", rich_help_panel=TRAINING)] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, dropout (0).", rich_help_panel=TRAINING)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a batch-normalised network and leave its best checkpoint in a run folder.

    Networks: mlp, convnet, resnet, resnet18, resnet34, resnet50. Defaults stand in parentheses.

    Example: `normfold train --arch convnet --data digits --out runs/digits`
    """
    given = {
        "arch": arch,
        "options": arg,
        "data": {
            "source": data,
            "label_column": label_column,
            "image_size": None if image_size is None else parse_size(image_size),
            "channels": channels,
            "validation_fraction": validation_fraction,
            "test_fraction": test_fraction,
            "split_seed": split_seed,
        },
        "train": {
            "epochs": epochs,
            "batch_size": batch_size,
            "optimizer": optimizer,
            "lr": lr,
            "weight_decay": weight_decay,
            "label_smoothing": label_smoothing,
            "patience": patience,
            "clip_norm": clip_norm,
            "precision": precision,
            "seed": seed,
        },
    }
    require_packages(*NEEDED, extra="train", needed_for="normfold train")
    try:
        result = _train(given, folder, resume)
    except KeyboardInterrupt:
        _say_how_to_resume(folder)
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        raise SetupError(f"{str(error.filename or folder)!r} cannot be written: {error.strerror or error}.") from None
    if _is_main_process():
        _print_result(result, as_json)


def parse_size(text: str) -> tuple[int, int]:
    """Read a size given as HEIGHTxWIDTH, in pixels.

    Raises:
        InputError: not two positive whole numbers with an x between.
    """
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise InputError(f"--image-size {text!r} is not of the form HEIGHTxWIDTH, for example 32x32.")
    return int(height), int(width)


def _train(given: dict[str, Any], folder: Path, resume: bool) -> FitResult:
    from models.resume import read_progress, refuse_existing_run
    from models.train import fit

    if resume:
        recorded = read_progress(folder).config
    else:
        refuse_existing_run(folder)  # before the data are read, which may take long
        recorded = None
    with _warnings_as_sentences():
        config, dataset = _make_config(given, recorded)
        reporter = _make_reporter()
        with reporter.bar:
            return fit(config, dataset, folder, resume=resume, reporter=reporter)


def _make_config(given: dict[str, Any], recorded: RunConfig | None) -> tuple[RunConfig, Dataset]:
    """Lay what was given over the defaults, or over the settings of the run to be resumed."""
    from pydantic import ValidationError

    from models.checkpoint import make_run_config
    from models.data import DataConfig, load_dataset
    from models.registry import find_factory, parse_options
    from models.train_config import TrainConfig

    arch, options = DEFAULT_ARCH, dict[str, Any]()
    before: dict[str, dict[str, Any]] = {"data": {}, "train": {}}
    if recorded is not None:
        arch, options = recorded.architecture.name, recorded.architecture.options
        before = recorded.model_dump(include={"data", "train"})
    arch = given["arch"] or arch
    options = parse_options(given["options"]) if given["options"] else options
    find_factory(arch)  # a wrong name is told before the data are read
    try:
        data_config = DataConfig.model_validate(before["data"] | _only_given(given["data"]))
        train_config = TrainConfig.model_validate(before["train"] | _only_given(given["train"]))
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-") + " " if first["loc"] else ""
        raise InputError(f"{option}{first['input']!r} cannot be: {first['msg']}.") from None
    dataset = load_dataset(data_config)
    return make_run_config(arch, options, data_config, dataset, train_config), dataset


def _only_given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _make_reporter() -> Any:
    from models.train import Reporter

    class BarReporter(Reporter):
        """A progress bar on a terminal, a line for each epoch elsewhere."""

        def __init__(self) -> None:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps"),
                TimeRemainingColumn(),
                console=err,
                disable=not err.is_terminal or not _is_main_process(),
            )
            self.task: TaskID | None = None
            self.epochs = 0

        def start(self, epochs_done: int, epochs: int, steps: int) -> None:
            self.epochs = epochs
            self.task = self.bar.add_task(f"epoch {epochs_done}/{epochs}", total=epochs * steps)
            self.bar.advance(self.task, epochs_done * steps)

        def step(self) -> None:
            assert self.task is not None
            self.bar.advance(self.task)

        def epoch(self, metrics: EpochMetrics) -> None:
            assert self.task is not None
            line = (
                f"epoch {metrics.epoch}/{self.epochs}  loss {metrics.train_loss:.3f}  "
                f"validation {metrics.validation_loss:.3f}, accuracy {metrics.validation_accuracy:.4f}"
            )
            self.bar.update(self.task, description=line)
            if self.bar.disable:
                err.print(line)

    return BarReporter()


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Show Normfold's own warnings as one sentence, any others as Python does."""
    from models.errors import TrainingWarning

    show = warnings.showwarning

    def show_sentence(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, TrainingWarning):
            show(message, category, filename, lineno, file, line)
        elif _is_main_process():
            warn(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show_sentence
        warnings.simplefilter("always", TrainingWarning)
        yield


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"  # set by torchrun and accelerate launch


def _say_how_to_resume(folder: Path) -> None:
    from models.resume import STATE_PATH

    if (folder / STATE_PATH).exists():
        err.print(
            f"Interrupted; go on after the last whole epoch with: normfold train --out {folder} --resume", markup=False
        )
    else:
        err.print("Interrupted before there was anything to resume.")


def _print_result(result: FitResult, as_json: bool) -> None:
    metrics = result.metrics
    if as_json:
        print_json(
            {
                "accuracy": metrics["test_accuracy"],
                "loss": metrics["test_loss"],
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
    table.add_row("validation accuracy", f"{metrics['validation_accuracy']:.4f} in epoch {result.best_epoch}")
    table.add_row("epochs", f"{result.epochs} in {result.seconds:.1f} s")
    table.add_row("checkpoint", str(result.folder))
    out.print(table)
