"""Conversion of the options of `normfold train` to the config of a run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from normfold.contract.errors import InputError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from normfold.models.data.data import Dataset
    from normfold.models.training.checkpoint import RunConfig

DEFAULT_ARCH = "convnet"


def parse_size(text: str) -> tuple[int, int]:
    """Parse a size given as HEIGHTxWIDTH, in pixels.

    Raises:
        InputError: not two positive integers with an x between.
    """
    height, _, width = text.lower().partition("x")
    if not all(re.fullmatch("0*[1-9][0-9]{0,8}", side, re.ASCII) for side in (height, width)):
        raise InputError(f"--image-size {_short(text)} is not of the form HEIGHTxWIDTH, for example 32x32.")
    return int(height), int(width)


def make_config(given: dict[str, Any], recorded: RunConfig | None) -> tuple[RunConfig, Dataset]:
    """Return config and data set of a run: the given options override the defaults, or those of the resumed run.

    Args:
        given: options by section; None where an option was not given.
        recorded: config of the run to resume, or None.

    Raises:
        InputError: an option is wrong, or the data cannot be read.
    """
    from pydantic import ValidationError

    from normfold.models.architectures.registry import find_factory, parse_options
    from normfold.models.data.data import DataConfig, load_dataset
    from normfold.models.training.checkpoint import make_run_config
    from normfold.models.training.config import TrainConfig

    arch, options = DEFAULT_ARCH, dict[str, Any]()
    before: dict[str, dict[str, Any]] = {"data": {}, "train": {}}
    if recorded is not None:
        arch, options = recorded.architecture.name, recorded.architecture.options
        before = recorded.model_dump(include={"data", "train"})
    arch = given["arch"] or arch
    options = parse_options(given["options"]) if given["options"] else options
    find_factory(arch)  # a wrong name is reported before the data are read
    try:
        data_config = DataConfig.model_validate(before["data"] | _only_given(given["data"]))
        train_config = TrainConfig.model_validate(before["train"] | _only_given(given["train"]))
    except ValidationError as error:
        raise InputError(_sentence(error)) from None
    dataset = load_dataset(data_config)
    return make_run_config(arch, options, data_config, dataset, train_config), dataset


def _only_given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _sentence(error: ValidationError) -> str:
    """Return one sentence about the first wrong option, with its name on the command line."""
    first = error.errors()[0]
    if not first["loc"]:  # an error of several options together
        text = first["msg"].removeprefix("Value error, ")
        return re.sub(r"[a-z]+(_[a-z]+)+", lambda found: _option(found[0]), text) + "."
    problem = first["msg"].replace("Input should be", "must be", 1)
    problem = re.sub("[0-9]{12,}", lambda digits: f"{float(digits[0]):g}", problem)
    return f"{_option(str(first['loc'][0]))} {problem}, not {_short(first['input'])}."


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"
