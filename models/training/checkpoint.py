"""The run folder: what a training run leaves, without pickle.

    weights.safetensors     the best network so far, by validation
    config.json             how to build it, the data it saw, how it was trained, and its source card
    metrics.jsonl           one line an epoch
    curves.png              loss and accuracy
    resume/                 the state after the last epoch (see resume.py)

Weights are written before the config, each whole or not at all.
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
from normfold.contract.manifest import SourceCard, to_json
from normfold.models.architectures.registry import Architecture, build
from normfold.models.data.data import DataConfig, Dataset
from normfold.models.errors import DataError, WeightsError
from normfold.models.training.config import TrainConfig
from normfold.models.training.weights import assign_weights, read_safetensors

WEIGHTS_NAME = "weights.safetensors"
CONFIG_NAME = "config.json"
SCHEMA_VERSION = 1

LOGITS = "logits"
"""Name of a trained classifier's only output."""


class RunConfig(BaseModel):
    """What is known of a trained network beside its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    architecture: Architecture
    data: DataConfig | None = None
    train: TrainConfig | None = None
    card: SourceCard = Field(default_factory=SourceCard, description="Goes along with the exported network.")
    epoch: int = Field(default=0, description="After which the weights were taken.")
    versions: dict[str, str] = Field(default_factory=dict, description="Package to version, at training.")


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, in eval mode, and what is known of it."""

    network: nn.Module
    config: RunConfig


def make_run_config(
    name: str, options: dict[str, Any], data: DataConfig, dataset: Dataset, train: TrainConfig
) -> RunConfig:
    """Return the config of a run that has not begun: architecture and card follow from the data set.

    Raises:
        DataError: the data's place, or an option, holds what JSON cannot.
    """
    config = RunConfig(
        architecture=Architecture(
            name=name, options=options, input_shape=dataset.input_shape, classes=len(dataset.labels)
        ),
        data=data,
        train=train,
        card=SourceCard(
            preprocessing=dataset.preprocessing,
            labels=dataset.labels,
            logits=(LOGITS,),
            origin=f"{name} trained on {dataset.name}",
        ),
        versions=current_versions(),
    )
    try:
        RunConfig.model_validate_json(to_json(config))
    except ValueError:
        raise DataError(
            f"{name!r} on {dataset.name!r} cannot be recorded: a name is not UTF-8, or an option is nested too deeply."
        ) from None
    return config


def save_checkpoint(folder: Path, network: nn.Module, config: RunConfig) -> None:
    """Write a network's weights and config into a folder, which is made if need be.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(folder / WEIGHTS_NAME, save(tensors))
    save_config(folder, config)


def save_config(folder: Path, config: RunConfig) -> None:
    """Write the config alone."""
    write_atomically(folder / CONFIG_NAME, to_json(config).encode())


def load_checkpoint(folder: Path) -> Checkpoint:
    """Build the network of a run folder, load its weights, and put it in eval mode.

    An architecture `module:factory` imports that module, which runs its code: load only folders whose origin you trust.

    Raises:
        WeightsError: a file is missing, damaged or of another network.
        ArchitectureError: the network cannot be built.
    """
    config = load_config(folder)
    weights = folder / WEIGHTS_NAME
    tensors = read_safetensors(weights)
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn and thrown away
        network = build(config.architecture)
    assign_weights(network, tensors, weights)
    return Checkpoint(network.eval(), config)


def load_config(folder: Path) -> RunConfig:
    """Read the config of a run folder.

    Raises:
        WeightsError: no such folder, or a config that is missing or wrong.
    """
    path = folder / CONFIG_NAME
    if not folder.is_dir():
        raise WeightsError(folder, "is no run folder; normfold train writes one with --out.")
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsError(path, f"cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise WeightsError(path, f"is not JSON: {error}.") from None
    except RecursionError:
        raise WeightsError(path, "is no config: its JSON is nested too deeply.") from None
    found = record.get("schema_version") if isinstance(record, dict) else None
    if found != SCHEMA_VERSION:
        raise WeightsError(path, f"has schema version {found!r}; this normfold reads {SCHEMA_VERSION}.")
    try:
        return RunConfig.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WeightsError(
            path, f"has a wrong field {where!r}: {first['msg'].removeprefix('Value error, ')}."
        ) from None


def current_versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("normfold", "torch", "numpy", "safetensors")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
