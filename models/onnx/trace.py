"""Calls torch's ONNX exporter without its log output, and turns its exceptions into one-sentence errors."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from normfold.models.errors import OnnxExportError

NOISY_LOGGERS = (
    "torch.onnx._internal.exporter._registration",  # "torchvision is not installed", at every call
    "torch.fx.experimental.symbolic_shapes",  # repeats, as log lines, what the exception says
    "torch.fx.experimental.recording",
    "torch.export",
)

NOISY_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),  # torch's own use of torch
    (UserWarning, r"# The axis name: \w+ will not be used, since it shares"),  # intended: inputs share the batch axis
)


def trace(
    network: nn.Module,
    examples: Mapping[str, Tensor],
    axes: Mapping[str, Mapping[int, str]],
    outputs: Sequence[str],
    opset: int,
) -> ir.Model:
    """Trace a network with torch.export and translate it to ONNX, unoptimised, since the optimiser folds BatchNorm.

    Args:
        network: in eval mode.
        examples: example tensor by input, in the order of the arguments of `forward`.
        axes: names of the dynamic axes, by input and axis index.
        outputs: names, in the order in which torch flattens the result.
        opset: version of the standard operators.

    Raises:
        OnnxExportError: torch cannot trace or translate the network, or fixes the size of a dynamic axis.
    """
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                tuple(examples.values()),
                dynamo=True,
                optimize=False,
                verbose=False,
                external_data=False,
                opset_version=opset,
                input_names=list(examples),
                output_names=list(outputs),
                dynamic_shapes=[dict(axes[name]) for name in examples],
            )
    except Exception as error:  # the exporter or the network may raise anything
        raise OnnxExportError(f"torch cannot export the network: {_reason(error)}") from error
    assert program is not None
    model: ir.Model = program.model
    _check_dynamic(model, axes)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence NOISY_LOGGERS and NOISY_WARNINGS."""
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            for category, message in NOISY_WARNINGS:
                warnings.filterwarnings("ignore", message=message, category=category)
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _reason(error: BaseException) -> str:
    """Return the first line of the original exception, which torch wraps in several others."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [re.sub(r"\x1b\[\d+m", "", line).strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)


def _check_dynamic(model: ir.Model, axes: Mapping[str, Mapping[int, str]]) -> None:
    shapes: dict[str | None, Any] = {value.name: value.shape for value in model.graph.inputs}
    for name, dynamic in axes.items():
        if name not in shapes or shapes[name] is None:
            raise OnnxExportError(f"The exported graph has no input {name!r}; the network seems not to use it.")
        for axis, axis_name in dynamic.items():
            if isinstance(shapes[name][axis], int):
                raise OnnxExportError(
                    f"The network fixes axis {axis_name!r} of input {name!r} to {shapes[name][axis]}; "
                    "look for a reshape with a constant size."
                )
