"""The best epochs of a run, kept in its folder by choice: each is a run folder that `normfold export` takes.

epochs/list.json                        the kept epochs, the best first
epochs/epoch-7/weights.safetensors      weights and running statistics
epochs/epoch-7/config.json              as of the run, with the metrics on the validation split
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from normfold.contract.atomic_write import write_atomically
from normfold.models.errors import RunFolderError
from normfold.models.training.checkpoint import CONFIG_NAME, RunConfig, save_checkpoint
from normfold.models.weight_files.load import WEIGHTS_NAME

EPOCHS_FOLDER = "epochs"
LIST_NAME = f"{EPOCHS_FOLDER}/list.json"


class KeptEpoch(BaseModel):
    """An epoch whose weights are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int = Field(description="From 1.")
    folder: str = Field(description="Within the run folder.")
    score: float = Field(description="The task's figure on the validation split; more is better.")
    loss: float = Field(description="On the validation split.")
    averaged: bool = Field(default=False, description="The weights are an exponential moving average.")


class KeptEpochs(BaseModel):
    """Content of list.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kept: tuple[KeptEpoch, ...] = Field(default=(), description="The best first; of two alike, the earlier.")


def keep_epoch(folder: Path, count: int, network: nn.Module, config: RunConfig, score: float, loss: float) -> None:
    """Keep an epoch if it is one of the best, and remove those that no longer are.

    Args:
        folder: run folder.
        count: largest number of epochs to keep.
        network: with the weights of the epoch.
        config: of the epoch.
        score: the task's figure on the validation split; more is better.
        loss: on the validation split.

    Raises:
        RunFolderError: the list is damaged.
        OSError: the folder cannot be written.
    """
    # A run that was killed after this, and before its state was written, repeats the epoch.
    before = [entry for entry in read_kept(folder) if entry.epoch < config.epoch]
    entry = KeptEpoch(epoch=config.epoch, folder=_place(config.epoch), score=score, loss=loss, averaged=config.averaged)
    ranked = sorted([*before, entry], key=lambda one: (-one.score, one.loss, one.epoch))
    kept, dropped = ranked[:count], ranked[count:]
    if entry in kept:
        save_checkpoint(folder / _place(config.epoch), network, config)
    write_atomically(folder / LIST_NAME, KeptEpochs(kept=tuple(kept)).model_dump_json(indent=2).encode())
    for one in dropped:
        _remove(folder / _place(one.epoch))


def read_kept(folder: Path) -> tuple[KeptEpoch, ...]:
    """Read the list of the kept epochs of a run folder; it is empty if none are kept.

    Raises:
        RunFolderError: the list is damaged.
    """
    path = folder / LIST_NAME
    if not path.exists():
        return ()
    try:
        return KeptEpochs.model_validate_json(path.read_bytes()).kept
    except ValidationError:
        raise RunFolderError(folder, f"holds a damaged {LIST_NAME}; it cannot be resumed.") from None


def _place(epoch: int) -> str:
    return f"{EPOCHS_FOLDER}/epoch-{epoch}"


def _remove(folder: Path) -> None:
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        with suppress(OSError):  # it is in the way of nothing
            (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # not empty
        folder.rmdir()
