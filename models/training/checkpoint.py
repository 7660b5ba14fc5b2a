"""The run folder of a training run; it holds no pickle files.

    weights.safetensors     weights and running statistics of the best epoch, by validation
    config.json             architecture, data, training settings, and source card
    metrics.jsonl           metrics, one line per epoch
    curves.png              plot of loss and metric
    confusion.png           for classes: rows of the test split by true and predicted class
    batchnorm.jsonl         differences between batch and running statistics, one line per epoch
    batchnorm.png           plot of them, a line for each BatchNorm
    epochs/                 best epochs, by choice (see outputs/kept_epochs.py)
    resume/                 state after the last epoch (see resume.py)

The weights are written before the config, each file atomically.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save
from torch import nn

from normfold.contract.atomic_write import write_atomically
from normfold.contract.outputs.task import DEFAULT_THRESHOLD, MultiLabel, Regression, Target
from normfold.contract.record import first_validation_error, to_json
from normfold.contract.source_card import SourceCard
from normfold.models.architectures.registry import Architecture, build
from normfold.models.data.data import DataConfig, Dataset
from normfold.models.errors import DataError, WeightsError
from normfold.models.fine_tuning.initial_weights import STARTING, InitialWeights
from normfold.models.training.config import TrainConfig
from normfold.models.weight_files.load import WEIGHTS_NAME, assign_weights
from normfold.models.weight_files.safetensors_file import read_safetensors

CONFIG_NAME = "config.json"
SCHEMA_VERSION = 1

LOGITS = "logits"
"""Name of the output of a network that was trained for classes or labels."""

DATA_FIELDS = ("preprocessing", "labels", "task")
"""Fields of a source card that are of the data."""

VALUES = "values"
"""Name of the output of a network that was trained for regression."""


class RunConfig(BaseModel):
    """All facts about a training run and its network except the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    architecture: Architecture
    data: DataConfig | None = None
    train: TrainConfig | None = None
    card: SourceCard = Field(default_factory=SourceCard, description="Is exported with the network.")
    epoch: int = Field(default=0, description="Epoch of the checkpoint's weights, from 1.")
    frozen_batchnorms: tuple[str, ...] = Field(
        default=(), description="Names of BatchNorm layers whose statistics neither training nor recalibration changes."
    )
    averaged: bool = Field(default=False, description="The weights are an exponential moving average.")
    initial_weights: InitialWeights | None = Field(
        default=None, description="File that the run started from; null: from random weights, or the factory's own."
    )
    versions: dict[str, str] = Field(default_factory=dict, description="Version by package, at training.")

    @property
    def title(self) -> str:
        """Architecture and data set, in words."""
        return self.card.origin.partition(STARTING)[0]


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, in eval mode, with its config."""

    network: nn.Module
    config: RunConfig


def make_run_config(
    name: str,
    options: dict[str, Any],
    data: DataConfig,
    dataset: Dataset,
    train: TrainConfig,
    initial_weights: InitialWeights | None = None,
) -> RunConfig:
    """Return the config of a new run, with input shape, classes and source card of the data set.

    Args:
        name: registered architecture, or module:factory.
        options: of the architecture.
        data: configuration of `dataset`.
        dataset: from `load_dataset(data)`.
        train: training settings.
        initial_weights: file to start from, from `describe_weights`.

    Raises:
        DataError: a setting is not for the task; or the data source, or an option, cannot be written as JSON.
    """
    config = RunConfig(
        architecture=Architecture(
            name=name, options=options, input_shape=dataset.input_shape, classes=len(dataset.labels)
        ),
        data=data,
        train=train,
        card=make_card(
            dataset,
            data,
            train,
            origin=f"{name} trained on {dataset.name}"
            + ("" if initial_weights is None else STARTING + initial_weights.in_words),
        ).model_copy(update={"initial_weights": None if initial_weights is None else initial_weights.record}),
        initial_weights=initial_weights,
        versions=current_versions(),
    )
    try:
        RunConfig.model_validate_json(to_json(config))
    except ValueError:
        raise DataError(
            f"{name!r} on {dataset.name!r} cannot be recorded: a name is not UTF-8, or an option is nested too deeply."
        ) from None
    return config


def make_card(dataset: Dataset, data: DataConfig, train: TrainConfig | None, origin: str = "") -> SourceCard:
    """Return the source card of a network that is trained on a data set: preprocessing, and what its outputs mean."""
    if dataset.target_scale is not None:
        scale, given = dataset.target_scale, data.unit or (None,)
        units: tuple[str | None, ...] = given if len(given) > 1 else given * len(dataset.labels)
        targets = tuple(
            Target(name=name, unit=unit, mean=float(mean), std=float(std))
            for name, unit, mean, std in zip(dataset.labels, units, scale.mean, scale.std, strict=True)
        )
        task = Regression(output=VALUES, targets=targets)
        return SourceCard(preprocessing=dataset.preprocessing, task=task, origin=origin)
    if dataset.task == "multi-label":
        threshold = DEFAULT_THRESHOLD if train is None or train.threshold is None else train.threshold
        return SourceCard(
            preprocessing=dataset.preprocessing,
            labels=dataset.labels,
            task=MultiLabel(output=LOGITS, threshold=threshold),
            origin=origin,
        )
    return SourceCard(preprocessing=dataset.preprocessing, labels=dataset.labels, logits=(LOGITS,), origin=origin)


def save_checkpoint(folder: Path, network: nn.Module, config: RunConfig) -> None:
    """Write a network's weights and config into a folder, which is created if it does not exist.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(folder / WEIGHTS_NAME, save(tensors))
    save_config(folder, config)


def save_config(folder: Path, config: RunConfig) -> None:
    """Write the config of a run folder."""
    write_atomically(folder / CONFIG_NAME, to_json(config).encode())


def load_checkpoint(folder: Path) -> Checkpoint:
    """Build the network of a run folder, load its weights, and put it in eval mode.

    An architecture `module:factory` imports that module, which runs its code: load only folders that you trust.

    Args:
        folder: run folder of `fit`.

    Raises:
        WeightsError: a file is missing, damaged or of another network.
        ArchitectureError: the network cannot be built.
    """
    config = load_config(folder)
    weights = folder / WEIGHTS_NAME
    tensors = read_safetensors(weights)
    with torch.random.fork_rng(devices=[]):  # the initial weights, which are replaced, do not change torch's state
        network = build(config.architecture)
    assign_weights(network, tensors, weights)
    return Checkpoint(network.eval(), config)


def load_config(folder: Path) -> RunConfig:
    """Read the config of a run folder.

    Raises:
        WeightsError: the folder or its config is missing, or a field of the config is wrong.
    """
    path = folder / CONFIG_NAME
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and not (folder / WEIGHTS_NAME).exists():
            raise WeightsError(folder, "is not a run folder; normfold train makes run folders.") from None
        raise WeightsError(path, f"cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise WeightsError(path, f"is not JSON: {error}.") from None
    except RecursionError:
        raise WeightsError(path, "is not a config: its JSON is nested too deeply.") from None
    found = record.get("schema_version") if isinstance(record, dict) else None
    if found != SCHEMA_VERSION:
        raise WeightsError(path, f"has schema version {found!r}; this normfold reads {SCHEMA_VERSION}.")
    try:
        return RunConfig.model_validate(record)
    except ValidationError as error:
        field, message = first_validation_error(error)
        raise WeightsError(path, f"has a wrong field {field!r}: {message.removeprefix('Value error, ')}.") from None


def current_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a training result depends on."""
    packages = ("normfold", "torch", "numpy", "safetensors")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
