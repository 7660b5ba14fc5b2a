"""Settings of a run from a file: the config.json of a run folder, or a file in YAML or JSON of the same form.

    architecture: {name: convnet, options: {widths: [32, 64]}}
    data: {source: digits}
    train: {epochs: 20, lr: 0.01}

Each part, and each field of it, may be left out. What a run adds about its result is ignored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from normfold.contract.record import first_validation_error
from normfold.models.data.data import DataConfig
from normfold.models.errors import ConfigFileError
from normfold.models.fine_tuning.initial_weights import describe_weights
from normfold.models.training.checkpoint import CONFIG_NAME, RunConfig
from normfold.models.training.config import TrainConfig

PARTS = ("architecture", "data", "train", "initial_weights")
"""Parts of a file that a new run takes."""

_SHAPE = {"input_shape": (1,), "classes": None}
"""Of the architecture, in place of what the data decide on."""


def read_config_file(path: Path, architecture: str) -> RunConfig:
    """Read the settings for a new run.

    Args:
        path: of a file in YAML (.yaml, .yml) or JSON (.json), or of a run folder.
        architecture: name where the file has none.

    Returns:
        A config whose input shape and classes are not those of the run; other parts than PARTS are defaults.

    Raises:
        ConfigFileError: the file cannot be read, or has a wrong field.
        WeightsError: the weights that the run started from cannot be read.
    """
    if path.is_dir():
        path = path / CONFIG_NAME
    record = _parse(path)
    unknown = [name for name in record if name not in RunConfig.model_fields]
    if unknown:
        raise ConfigFileError(path, f"has an unknown part {unknown[0]!r}; the parts are {', '.join(PARTS[:3])}.")
    given = {part: record[part] for part in PARTS if record.get(part) is not None}
    for part in PARTS:
        if part in given and not isinstance(given[part], dict):
            raise ConfigFileError(path, f"has a wrong part {part!r}: it is no table of names and values.")
    given["architecture"] = {"name": architecture} | given.get("architecture", {}) | _SHAPE
    try:
        config = RunConfig.model_validate(given)
    except ValidationError as error:
        field, message = first_validation_error(error)
        raise ConfigFileError(path, f"has a wrong field {field!r}: {message.removeprefix('Value error, ')}.") from None
    # Read again, since the file may have changed since that run.
    initial = None if config.initial_weights is None else describe_weights(config.initial_weights.file)
    return config.model_copy(
        update={
            "data": config.data or DataConfig(),
            "train": config.train or TrainConfig(),
            "initial_weights": initial,
        }
    )


def _parse(path: Path) -> dict[str, Any]:
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ConfigFileError(path, "is neither a run folder nor a file .yaml, .yml or .json.")
    try:
        text = path.read_text("utf-8")
        record = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise ConfigFileError(path, f"cannot be read: {error.strerror}.") from None
    except (ValueError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ConfigFileError(path, f"is not {kind}: {' '.join(str(error).split())}.") from None
    except RecursionError:
        raise ConfigFileError(path, "is nested too deeply.") from None
    if not isinstance(record, dict):
        raise ConfigFileError(path, f"is no table of names and values; its parts are {', '.join(PARTS[:3])}.")
    return record
