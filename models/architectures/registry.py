"""Build a network by its name: a registered architecture, or `module:factory` of the user's own code.

A factory is a function that returns an `nn.Module`. It gets its options by name, and `input_shape` (one sample, without
the batch axis) and `classes` if its signature has them. Without data to derive `classes` from, as when a user's own
network is exported, `classes` is an option like any other.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from normfold.contract.errors import NormfoldError, first_line
from normfold.models.architectures.convnet import convnet
from normfold.models.architectures.densenet import densenet
from normfold.models.architectures.mlp import mlp
from normfold.models.architectures.mobilenet import mobilenet
from normfold.models.architectures.preact_resnet import preact_resnet
from normfold.models.architectures.repvgg import repvgg
from normfold.models.architectures.resnet import resnet
from normfold.models.architectures.temporal import temporal
from normfold.models.architectures.unet import unet
from normfold.models.errors import ArchitectureError

Factory = Callable[..., nn.Module]

_IMAGENET_WIDTHS = (64, 128, 256, 512)

FACTORIES: dict[str, Factory] = {
    "mlp": mlp,
    "convnet": convnet,
    "resnet": resnet,
    "resnet18": partial(resnet, block="basic", depths=(2, 2, 2, 2), widths=_IMAGENET_WIDTHS),
    "resnet34": partial(resnet, block="basic", depths=(3, 4, 6, 3), widths=_IMAGENET_WIDTHS),
    "resnet50": partial(resnet, block="bottleneck", depths=(3, 4, 6, 3), widths=_IMAGENET_WIDTHS),
    "preact_resnet": preact_resnet,
    "mobilenet": mobilenet,
    "mobilenet_v2": partial(
        mobilenet,
        depths=(1, 2, 3, 4, 3, 3, 1),
        widths=(16, 24, 32, 64, 96, 160, 320),
        strides=(1, 2, 2, 2, 1, 2, 1),
        stem_width=32,
        stem_stride=2,
        head_width=1280,
    ),
    "densenet": densenet,
    "densenet121": partial(densenet, depths=(6, 12, 24, 16), growth_rate=32),
    "repvgg": repvgg,
    "unet": unet,
    "temporal": temporal,
}
"""Factory of each architecture, by name.

This module imports torch, so the help of `normfold train` and the docstring of `normfold.train` list the names
themselves; tests/cli/commands/test_train.py compares both lists with this one.
"""


class Architecture(BaseModel):
    """Everything that is needed to build a network again, except its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="A registered name, or module:factory.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the factory.")
    input_shape: tuple[int, ...] = Field(description="Shape of one sample, without the batch axis.")
    classes: int | None = Field(default=None, description="Number of logits; null if the factory does not get it.")


def build(architecture: Architecture) -> nn.Module:
    """Build a network with initial weights, drawn from torch's global random state.

    The module of a `module:factory` is imported, which runs its code; the current folder is searched last.

    Args:
        architecture: factory, options and shapes.

    Returns:
        The network as the factory returns it, usually in train mode.

    Raises:
        ArchitectureError: unknown name or option, a module that cannot be imported, or a factory that fails or returns
            something other than an `nn.Module`.
    """
    name = architecture.name
    factory = find_factory(name)
    given = {"input_shape": architecture.input_shape, "classes": architecture.classes}
    given = {key: value for key, value in given.items() if value is not None}
    _check_options(name, architecture.options, list_options(factory), given)
    # A factory with **options accepts any name, but expects only the names in its signature.
    arguments = {key: value for key, value in given.items() if key in _named_parameters(factory)}
    arguments |= architecture.options
    _check_required(name, factory, arguments)
    try:
        network = factory(**arguments)
    except NormfoldError:
        raise
    except Exception as error:  # a user's factory may raise anything
        reason = first_line(error, default="no message")
        raise ArchitectureError(f"{name!r} could not be built: {type(error).__name__}: {reason}") from error
    if not isinstance(network, nn.Module):
        raise ArchitectureError(f"{name!r} returned {type(network).__name__}, not a torch.nn.Module.")
    return network


@torch.no_grad()
def check_outputs(network: nn.Module, architecture: Architecture, output_shape: tuple[int, ...], task: str) -> None:
    """Check that a network returns outputs of the right shape for two samples of zeros; the network is left unchanged.

    Args:
        network: as built, in any mode.
        architecture: of the network.
        output_shape: that it must return for one sample.
        task: the targets that need this shape, for the error.

    Raises:
        ArchitectureError: the network does not take the samples, or returns another shape.
    """
    name, shape = architecture.name, architecture.input_shape
    was_training = network.training
    network.eval()
    try:
        outputs = network(torch.zeros(2, *shape))
    except Exception as error:  # a user's own network may raise anything
        reason = first_line(error, default="no message")
        raise ArchitectureError(f"{name!r} does not take samples of shape {list(shape)}: {reason}") from error
    finally:
        network.train(was_training)
    got = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    needed = [2, *output_shape]
    if got != needed:
        raise ArchitectureError(f"{name!r} returns {got} for 2 samples; {task} needs outputs of shape {needed}.")


def find_factory(name: str) -> Factory:
    """Return the factory of a registered name or of `module:factory`.

    Raises:
        ArchitectureError: unknown name, a module that cannot be imported, or no such factory in it.
    """
    if name in FACTORIES:
        return FACTORIES[name]
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        known = ", ".join(FACTORIES)
        raise ArchitectureError(f"Unknown architecture {name!r}; choose from {known}, or give your own module:factory.")
    module = _import_module(module_name)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        place = getattr(module, "__file__", None) or "without a file"
        raise ArchitectureError(f"Module {module_name!r} ({place}) has no function {attribute!r}.")
    found: Factory = factory
    return found


def list_options(factory: Factory) -> list[str] | None:
    """Return the names of a factory's keyword arguments, or None if it accepts any (`**options`)."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # no signature, as for some classes written in C
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return _named_parameters(factory)


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse `name=value` pairs; a value that is valid JSON is parsed as JSON, any other is a string.

    Args:
        pairs: for example `["widths=[32,64]", "activation=silu"]`.

    Raises:
        ArchitectureError: a pair without `=`, a name given twice, or a value that JSON cannot record.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ArchitectureError(f"{pair!r} is not of the form name=value, for example widths=[32,64].")
        if name in options:
            raise ArchitectureError(f"Option {name!r} is given twice.")
        options[name] = _parse_value(name, text)
    return options


def _parse_value(name: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    except RecursionError:
        raise ArchitectureError(f"Option {name!r} is nested too deeply.") from None
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        raise ArchitectureError(f"Option {name!r} holds NaN or infinity, which a run cannot record.") from None
    return value


def _named_parameters(factory: Factory) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _check_options(name: str, options: Mapping[str, Any], accepted: list[str] | None, given: Mapping[str, Any]) -> None:
    for option in options:
        if option in given:
            raise ArchitectureError(f"Option {option!r} is derived from the data or the input and cannot be given.")
        if accepted is not None and option not in accepted:
            known = ", ".join(key for key in accepted if key not in given) or "none"
            raise ArchitectureError(f"{name!r} has no option {option!r}; its options are: {known}.")


def _check_required(name: str, factory: Factory, arguments: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in named if p.default is p.empty and p.name not in arguments]
    if missing:
        raise ArchitectureError(f"{name!r} needs {', '.join(map(repr, missing))}; give --arg {missing[0]}=VALUE.")


def _import_module(name: str) -> Any:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that nothing in it can hide an installed package
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if f"{name}.".startswith(f"{missing}."):  # the module itself, or a package that it would be in
            raise ArchitectureError(
                f"There is no module {name!r}, neither installed nor in the current folder."
            ) from None
        raise ArchitectureError(f"Module {name!r} imports {missing!r}, which is not installed.") from None
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        reason = first_line(error, default="no message")
        raise ArchitectureError(f"Module {name!r} cannot be imported: {type(error).__name__}: {reason}") from error
