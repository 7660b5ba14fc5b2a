"""The state of a training run after an epoch, in one safetensors file that is written atomically.

    network.NAME            weights and running statistics, by their names in the state dict
    optimizer.INDEX.NAME    the optimizer's state of each parameter
    average.NAME            averaged weights, if the run has them
    metadata                as JSON: epoch, best epoch, loss scale, and the run's config

It holds no random state, and of the schedule only where it began: the order of rows, dropout's masks and the learning
rate are functions of (seed, epoch, step). So an interrupted run ends with the same weights as an uninterrupted one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from normfold.contract.atomic_write import write_atomically
from normfold.models.errors import RunFolderError
from normfold.models.fine_tuning.more_epochs import ScheduleStart
from normfold.models.training.checkpoint import DATA_FIELDS, RunConfig
from normfold.models.training.config import STATE_PATH
from normfold.models.training.loop.averaging import AveragedWeights
from normfold.models.weight_files.load import assign_weights
from normfold.models.weight_files.safetensors_file import read_safetensors

METADATA_KEY = "normfold"

MAY_CHANGE = frozenset({"epochs", "patience", "keep", "threads"})
"""Training settings that a run may be resumed with another value of."""


class Progress(BaseModel):
    """Progress of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: RunConfig
    epoch: int = Field(default=0, description="Epochs done.")
    best_epoch: int = Field(default=0, description="Epoch of the checkpoint's weights; 0 before the first.")
    best_score: float = Field(
        default=-1.0,
        validation_alias=AliasChoices("best_score", "best_accuracy"),
        description="The task's figure, more is better, on the validation split, in the best epoch.",
    )
    best_loss: float = Field(default=0.0, description="On the validation split, in the best epoch.")
    loss_scale: dict[str, float] | None = Field(default=None, description="Of fp16 training.")
    schedule: ScheduleStart = Field(
        default_factory=ScheduleStart, description="Of the learning rate; changes if the number of epochs does."
    )

    def is_better(self, score: float, loss: float) -> bool:
        """Return whether a validation result is better than the best so far: by the task's figure, then by loss."""
        return self.best_epoch == 0 or (score, -loss) > (self.best_score, -self.best_loss)

    @property
    def finished(self) -> bool:
        """True if no epoch is left, or patience is exhausted."""
        train = self.config.train
        assert train is not None
        since = max(self.best_epoch, self.schedule.epoch)  # a run with more epochs gets its patience anew
        out_of_patience = train.patience is not None and self.epoch - since >= train.patience
        return self.epoch >= train.epochs or out_of_patience


def save_state(
    folder: Path,
    progress: Progress,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaged: AveragedWeights | None = None,
) -> None:
    """Write the state after an epoch; it replaces the previous one.

    Raises:
        OSError: the folder cannot be written.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items() if isinstance(value, Tensor)}
    if averaged is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in averaged.state().items()}
    # Copies, since safetensors does not save tensors that share memory, as tied weights do.
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    (folder / STATE_PATH).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / STATE_PATH, save(plain, metadata={METADATA_KEY: progress.model_dump_json()}))


def read_progress(folder: Path) -> Progress:
    """Read the progress and config of a run.

    Raises:
        RunFolderError: the folder holds no run to resume, or its state is damaged.
    """
    path = folder / STATE_PATH
    if not path.exists():
        raise RunFolderError(folder, "holds no run to resume.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        return Progress.model_validate_json(metadata.get(METADATA_KEY, ""))
    except (OSError, SafetensorError, ValidationError):
        raise RunFolderError(folder, f"holds a damaged {STATE_PATH}; it cannot be resumed.") from None


def restore_state(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, averaged: AveragedWeights | None = None
) -> None:
    """Load the saved weights, running statistics and optimizer state, and the averaged weights, into new ones.

    Raises:
        WeightsError: the file is damaged, or of another network.
    """
    path = folder / STATE_PATH
    tensors = read_safetensors(path)
    assign_weights(network, _below("network.", tensors), path)
    if averaged is not None:
        averaged.load_state(_below("average.", tensors))
    states: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": states})


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def go_on(progress: Progress, config: RunConfig) -> Progress:
    """Return the progress of a run that is resumed with these settings, which may have another number of epochs.

    Args:
        progress: as it was read.
        config: that the run is resumed with; see `check_same_run`.
    """
    before, now = progress.config.train, config.train
    assert before is not None
    assert now is not None
    schedule = progress.schedule if now.epochs == before.epochs else progress.schedule.at(progress.epoch, before.epochs)
    changed = progress.config.model_copy(update={"train": now})
    return progress.model_copy(update={"config": changed, "schedule": schedule})


def check_same_run(folder: Path, progress: Progress, given: RunConfig) -> None:
    """Check that a run is resumed with the settings and data that it began with, but for `epochs` and `patience`.

    Raises:
        RunFolderError: a setting differs, which is named, the data have changed, or the epochs are fewer than are done.
    """
    recorded = progress.config
    for part in ("data", "architecture", "train"):
        before, now = getattr(recorded, part), getattr(given, part)
        for field in type(before).model_fields:
            if field not in MAY_CHANGE and getattr(before, field) != getattr(now, field):
                raise RunFolderError(
                    folder,
                    f"was trained with {field}={getattr(before, field)!r}, not {getattr(now, field)!r}; "
                    "resume it with the former, or give another `out`.",
                )
    if given.initial_weights is not None and not given.initial_weights.same_source(recorded.initial_weights):
        raise RunFolderError(folder, "did not start from these `weights`; resume it without them.")
    assert recorded.train is not None
    assert given.train is not None
    if given.train.epochs != recorded.train.epochs and given.train.epochs <= progress.epoch:
        raise RunFolderError(folder, f"has {progress.epoch} epochs done; to go on, give more `epochs`.")
    if any(getattr(recorded.card, field) != getattr(given.card, field) for field in DATA_FIELDS):
        raise RunFolderError(
            folder, "was trained on other data: their labels, mean or standard deviation have changed."
        )
