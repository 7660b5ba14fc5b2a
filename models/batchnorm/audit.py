"""Audit the BatchNorm layers of a torch network: parameters, modes, dropout before them, and statistics on data."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normfold.contract.arrays import Float64Array
from normfold.contract.audit.batchnorm_checks import check_layer
from normfold.contract.audit.findings import Audit, BatchNormLayer, Finding, Severity
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.models.batchnorm.audit_data import DataComparison, as_sentence, compare_with_data
from normfold.models.batchnorm.dropout_order import dropout_before_batchnorms
from normfold.models.errors import ArchitectureError
from normfold.models.statistics.hooks import named_batchnorms
from normfold.models.training.config import MIN_USUAL_BATCH_ROWS

INVALID_STATISTICS = ("statistics-unset", "not-finite")
"""Codes of findings after which a comparison of the layer's statistics with data is pointless."""


@dataclass(frozen=True)
class Subject:
    """A network to audit, and facts about its training."""

    network: nn.Module
    example: Tensor
    """A batch (2, *input_shape), to find out which layers the network calls."""
    rows: Tensor | None = None
    """Training rows (N, *input_shape), or None."""
    batch_rows: int | None = None
    """Rows per training batch, or None if unknown."""


def audit_network(subject: Subject, progress: ProgressCallback = ignore_progress) -> Audit:
    """Audit a network. It is put in eval mode and not changed otherwise: comparisons with data work on copies.

    Args:
        subject: the network, in the modes in which it is to be used.
        progress: called with each step, in words.

    Raises:
        ArchitectureError: the network does not take the example.
    """
    network, subject = subject.network, _in_type_of_network(subject)
    findings = [*_modes(network), *_small_batch(subject)]
    network.eval()
    _check_takes(network, subject.example)
    layers = tuple(_layers(network))
    for layer in layers:
        findings += check_layer(layer)
    findings += _without_statistics(network)
    comparison = DataComparison()
    if subject.rows is not None and layers:
        invalid = {finding.layer for finding in findings if finding.layer and finding.code in INVALID_STATISTICS}
        comparison = compare_with_data(network, subject.rows, invalid, progress)
        explained = "not-finite" in {finding.code for finding in findings}  # it causes input-not-finite
        findings += [
            finding for finding in comparison.findings if not (explained and finding.code == "input-not-finite")
        ]
    notes = [*_uninitialised(network), *comparison.notes]
    progress("looking for dropout before BatchNorm")
    try:
        findings += _dropout(network, subject.example, comparison.matching)
    except Exception as error:  # noqa: BLE001 -- a user's own network may raise anything where gradients are kept
        notes.append(f"Dropout before BatchNorm was not checked: {as_sentence(error)}")
    return Audit(layers, tuple(findings), comparison.differences, tuple(notes))


def _in_type_of_network(subject: Subject) -> Subject:
    """Return the subject with its data in the dtype and on the device of the network's first floating-point tensor."""
    tensors = chain(subject.network.parameters(), subject.network.buffers())
    first = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
    if first is None:
        return subject
    rows = None if subject.rows is None else subject.rows.to(first.device, first.dtype)
    return replace(subject, example=subject.example.to(first.device, first.dtype), rows=rows)


def _check_takes(network: nn.Module, example: Tensor) -> None:
    try:
        with torch.no_grad():
            network(example)
    except Exception as error:  # a user's own network may raise anything
        raise ArchitectureError(
            f"The network does not take samples of shape {list(example.shape[1:])}: {as_sentence(error)}"
        ) from error


def _layers(network: nn.Module) -> Iterator[BatchNormLayer]:
    for name, module in named_batchnorms(network):
        if module.running_mean is None or module.running_var is None or is_lazy(module.running_mean):
            continue
        weight: Tensor | None = module.weight  # both None with affine=False
        bias: Tensor | None = module.bias
        scale = torch.ones_like(module.running_var) if weight is None else weight
        shift = torch.zeros_like(module.running_var) if bias is None else bias
        arrays = [_to_float64(tensor) for tensor in (scale, shift, module.running_mean, module.running_var)]
        yield BatchNormLayer(name, *arrays, module.eps)  # type: ignore[call-arg, arg-type]


def _uninitialised(network: nn.Module) -> Iterator[str]:
    """Yield a note for every LazyBatchNorm without parameters; it gets them from its first call."""
    for name, module in named_batchnorms(network):
        if any(is_lazy(tensor) for tensor in (module.running_mean, module.weight) if tensor is not None):
            yield f"BatchNorm {name!r} is lazy and was not called, so it has no parameters to check."


def _to_float64(tensor: Tensor) -> Float64Array:
    array: Float64Array = tensor.detach().cpu().double().numpy()
    return array


def _modes(network: nn.Module) -> Iterator[Finding]:
    for name, module in named_batchnorms(network):
        if module.training:
            yield Finding(
                Severity.ERROR,
                "train-mode",
                name,
                "normalises by the batch, and every call changes its running statistics",
                "Call network.eval() before inference or export.",
            )


def _without_statistics(network: nn.Module) -> Iterator[Finding]:
    for name, module in named_batchnorms(network):
        if module.running_mean is None or module.running_var is None:
            yield Finding(
                Severity.ERROR,
                "no-statistics",
                name,
                "keeps no running statistics, and normalises by the batch in eval mode too",
                "Build it with track_running_stats=True and train it.",
            )


def _small_batch(subject: Subject) -> Iterator[Finding]:
    rows = subject.batch_rows
    if rows is not None and rows < MIN_USUAL_BATCH_ROWS and any(named_batchnorms(subject.network)):
        yield Finding(
            Severity.WARNING,
            "small-batch",
            None,
            f"{rows} rows per training batch; statistics of fewer than {MIN_USUAL_BATCH_ROWS} are noisy (Wu & He 2018)",
            f"Train with --batch-size {MIN_USUAL_BATCH_ROWS} or more, or synchronise BatchNorm over several processes.",
        )


def _dropout(network: nn.Module, example: Tensor, matching: Collection[str | None]) -> Iterator[Finding]:
    """Yield a finding for each layer after a dropout: only for information if its statistics match the data."""
    for name, p in dropout_before_batchnorms(network, example).items():
        yield Finding(
            Severity.INFO if name in matching else Severity.WARNING,
            "dropout-before",
            name,
            f"after a dropout of p = {p:g}: variance in training up to {1 / (1 - p):.3g} times that in inference",
            "Move the dropout after the last BatchNorm, or recalibrate (normfold export of a run folder does).",
        )
