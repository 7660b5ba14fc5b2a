"""What is wrong with the BatchNorm layers of a torch network: by its parameters, its modes, its graph, and on data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normfold.contract.audit.batchnorm_checks import check_layer
from normfold.contract.audit.findings import Audit, Finding, FloatArray, NormLayer, Severity
from normfold.models.batchnorm.audit_data import Seen, compare_with_data, first_line
from normfold.models.batchnorm.dropout_order import dropout_before_norms
from normfold.models.batchnorm.hooks import named_norms
from normfold.models.errors import ArchitectureError
from normfold.models.training.config import FEWEST_ROWS


@dataclass(frozen=True)
class Subject:
    """A network, and what is known of its training."""

    network: nn.Module
    example: Tensor
    """(2, *input_shape): shows what the network calls."""
    rows: Tensor | None = None
    """(N, *input_shape): training rows; None where there are none."""
    batch_rows: int | None = None
    """In a batch of its training; None where that is not known."""


def audit_network(subject: Subject, say: Callable[[str], None] = lambda _: None) -> Audit:
    """Audit a network; what the data tell is taken from copies, and only the network's mode is changed, to eval.

    Args:
        subject: the network with its modes as it is to be used.
        say: called with what is being done, in words.

    Raises:
        ArchitectureError: the network does not take the example.
    """
    network, subject = subject.network, _in_type_of_network(subject)
    findings = [*_modes(network), *_small_batch(subject)]
    network.eval()
    _try(network, subject.example)
    layers = tuple(_layers(network))
    for layer in layers:
        findings += check_layer(layer)
    findings += _without_statistics(network)
    seen = Seen()
    if subject.rows is not None and layers:
        unfit = {found.layer for found in findings if found.layer and found.code in ("statistics-unset", "not-finite")}
        seen = compare_with_data(network, subject.rows, unfit, say)
        known = "not-finite" in {found.code for found in findings}  # then it is no wonder that values are not
        findings += [found for found in seen.findings if not (known and found.code == "input-not-finite")]
    notes = [*_never_shaped(network), *seen.notes]
    say("looking for dropout before BatchNorm")
    try:
        findings += _dropout(network, subject.example, seen.fitting)
    except Exception as error:  # noqa: BLE001 -- a user's own network may raise anything where gradients are kept
        notes.append(f"Dropout before BatchNorm was not looked for: {first_line(error)}")
    return Audit(layers, tuple(findings), seen.drifts, tuple(notes))


def _in_type_of_network(subject: Subject) -> Subject:
    """Return the data in the floating-point type, and on the device, of the network's first tensor, if it has any."""
    tensors = chain(subject.network.parameters(), subject.network.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
    if like is None:
        return subject
    rows = None if subject.rows is None else subject.rows.to(like.device, like.dtype)
    return replace(subject, example=subject.example.to(like.device, like.dtype), rows=rows)


def _try(network: nn.Module, example: Tensor) -> None:
    try:
        with torch.no_grad():
            network(example)
    except Exception as error:  # a user's own network may raise anything
        raise ArchitectureError(
            f"The network does not take samples of shape {list(example.shape[1:])}: {first_line(error)}"
        ) from error


def _layers(network: nn.Module) -> Iterator[NormLayer]:
    for name, module in named_norms(network):
        if module.running_mean is None or module.running_var is None or is_lazy(module.running_mean):
            continue
        weight: Tensor | None = module.weight  # both None with affine=False
        bias: Tensor | None = module.bias
        scale = torch.ones_like(module.running_var) if weight is None else weight
        shift = torch.zeros_like(module.running_var) if bias is None else bias
        arrays = [_array(tensor) for tensor in (scale, shift, module.running_mean, module.running_var)]
        yield NormLayer(name, *arrays, module.eps)  # type: ignore[call-arg, arg-type]


def _never_shaped(network: nn.Module) -> Iterator[str]:
    """Say which layers have no parameters yet: a LazyBatchNorm gets them from its first call."""
    for name, module in named_norms(network):
        if any(is_lazy(tensor) for tensor in (module.running_mean, module.weight) if tensor is not None):
            yield f"BatchNorm {name!r} is lazy and was not called, so it has no parameters to look at."


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.detach().cpu().double().numpy()
    return array


def _modes(network: nn.Module) -> Iterator[Finding]:
    for name, module in named_norms(network):
        if module.training:
            yield Finding(
                Severity.ERROR,
                "train-mode",
                name,
                "normalises by the batch and moves its statistics with every call",
                "Call network.eval() before inference or export.",
            )


def _without_statistics(network: nn.Module) -> Iterator[Finding]:
    for name, module in named_norms(network):
        if module.running_mean is None or module.running_var is None:
            yield Finding(
                Severity.ERROR,
                "no-statistics",
                name,
                "keeps no running statistics, and normalises by the batch in eval mode too",
                "Build it with track_running_stats=True and train it.",
            )


def _small_batch(subject: Subject) -> Iterator[Finding]:
    if subject.batch_rows is not None and subject.batch_rows < FEWEST_ROWS and any(named_norms(subject.network)):
        yield Finding(
            Severity.WARNING,
            "small-batch",
            None,
            f"{subject.batch_rows} rows in a batch of its training; fewer than {FEWEST_ROWS} are noisy (Wu & He 2018)",
            f"Train with --batch-size {FEWEST_ROWS} or more, or with statistics over several processes.",
        )


def _dropout(network: nn.Module, example: Tensor, sound: Collection[str | None]) -> Iterator[Finding]:
    """Find layers behind a dropout; those whose statistics fit the data all the same are no more than worth knowing."""
    for name, p in dropout_before_norms(network, example).items():
        yield Finding(
            Severity.INFO if name in sound else Severity.WARNING,
            "dropout-before",
            name,
            f"behind a dropout of p = {p:g}: variance in training up to {1 / (1 - p):.3g} times that of inference",
            "Put the dropout behind the last BatchNorm, or take the statistics anew (normfold export of a run folder).",
        )
