"""The state of a training run after an epoch, in one safetensors file that is written atomically.

    network.NAME            weights and running statistics, by their names in the state dict
    optimizer.INDEX.NAME    the optimizer's state of each parameter
    metadata                as JSON: epoch, best epoch, loss scale, and the run's config

It holds no random state and no schedule: the order of rows, dropout's masks and the learning rate are functions of
(seed, epoch, step). So an interrupted run ends with the same weights as an uninterrupted one.
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
from normfold.models.training.checkpoint import RunConfig
from normfold.models.training.config import STATE_PATH
from normfold.models.weight_files.load import assign_weights
from normfold.models.weight_files.safetensors_file import read_safetensors

METADATA_KEY = "normfold"


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

    def is_better(self, score: float, loss: float) -> bool:
        """Return whether a validation result is better than the best so far: by the task's figure, then by loss."""
        return self.best_epoch == 0 or (score, -loss) > (self.best_score, -self.best_loss)

    @property
    def finished(self) -> bool:
        """True if no epoch is left, or patience is exhausted."""
        train = self.config.train
        assert train is not None
        out_of_patience = train.patience is not None and self.epoch - self.best_epoch >= train.patience
        return self.epoch >= train.epochs or out_of_patience


def save_state(folder: Path, progress: Progress, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state after an epoch; it replaces the previous one.

    Raises:
        OSError: the folder cannot be written.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items() if isinstance(value, Tensor)}
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


def restore_state(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the saved weights, running statistics and optimizer state into a new network and optimizer.

    Raises:
        WeightsError: the file is damaged, or of another network.
    """
    path = folder / STATE_PATH
    tensors = read_safetensors(path)
    prefix = "network."
    of_network = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    assign_weights(network, of_network, path)
    states: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": states})


def check_same_run(folder: Path, recorded: RunConfig, given: RunConfig) -> None:
    """Check that a run is resumed with the settings and data that it began with.

    Raises:
        RunFolderError: a setting differs, which is named, or the data have changed.
    """
    for part in ("architecture", "data", "train"):
        before, now = getattr(recorded, part), getattr(given, part)
        for field in type(before).model_fields:
            if getattr(before, field) != getattr(now, field):
                raise RunFolderError(
                    folder,
                    f"was trained with {field}={getattr(before, field)!r}, not {getattr(now, field)!r}; "
                    "resume it with the former, or give another `out`.",
                )
    if recorded.card.preprocessing != given.card.preprocessing or recorded.card.labels != given.card.labels:
        raise RunFolderError(
            folder, "was trained on other data: their labels, mean or standard deviation have changed."
        )
