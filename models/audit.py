"""What is wrong with the BatchNorm layers of a torch network: by its parameters, its modes, its graph, and on data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from contract.findings import Audit, Finding, FloatArray, LayerDrift, NormLayer, Severity
from contract.norm_checks import check_layer
from models.dropout_order import dropout_before_norms
from models.errors import ArchitectureError, StatisticsError, UnsteadyCallsError
from models.running_stats import reestimate
from models.train_config import FEWEST_ROWS

COMPARED_ROWS, FEWEST_COMPARED_ROWS = 256, 128
"""In one batch, in which train and eval mode are compared: with fewer the batch's own noise would be what is seen."""

LARGEST_DISAGREEMENT = 0.4
"""Root mean square of eval - train, as part of the outputs' own spread over the batch. Sound networks trained on digits
(convnet, mlp, resnet; 2 to 20 epochs) gave 0.04 to 0.13 with 256 rows; those with one layer's mean off by a standard
deviation 0.7 to 1.2, or its variance by a factor of 4, 0.5 to 0.8."""

FAR_SHIFT, FAR_RATIO = 1.0, 4.0
"""A single channel that far off is found. A moving average of torch's momentum 0.1 has the noise of 19 batches: with 32
rows in each, 0.04 standard deviations of the mean and 6 % of the variance (20 % with heavy tails), and four times as
much in the worst of a thousand channels."""

NEAR_SHIFT, NEAR_RATIO, NEAR_SHARE = 0.5, 2.0, 0.1
"""So is a tenth of a layer's channels at half of that: that many are no outliers of noise."""


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
    network = subject.network
    findings = [*_modes(network), *_small_batch(subject)]
    network.eval()
    _try(network, subject.example)
    layers = tuple(_layers(network))
    for layer in layers:
        findings += check_layer(layer)
    findings += _without_statistics(network)
    drifts: dict[str, LayerDrift] = {}
    notes: list[str] = []
    sound: Collection[str | None] = ()
    if subject.rows is not None and layers:
        judged = {finding.layer for finding in findings if finding.code in ("statistics-unset", "not-finite")}
        try:
            drifts = {drift.layer: drift for drift in reestimate(copy.deepcopy(network), subject.rows, say)}
        except UnsteadyCallsError as error:
            notes.append(str(error))
        except StatisticsError as error:
            findings += [] if "not-finite" in {found.code for found in findings} else [_overflow(error.layer)]
        findings += [found for drift in drifts.values() if drift.layer not in judged for found in _stale(drift)]
        sound = set(drifts) - judged - {finding.layer for finding in findings if finding.code == "statistics-stale"}
        say("comparing train and eval mode")
        findings += _disagreement(network, subject.rows)
    say("looking for dropout before BatchNorm")
    findings += _dropout(network, subject.example, sound)
    return Audit(layers, tuple(findings), drifts, tuple(notes))


def _try(network: nn.Module, example: Tensor) -> None:
    try:
        with torch.no_grad():
            network(example)
    except Exception as error:  # a user's own network may raise anything
        reason = str(error).strip().partition("\n")[0]
        raise ArchitectureError(
            f"The network does not take samples of shape {list(example.shape[1:])}: {reason}"
        ) from error


def _norms(network: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            yield name or type(module).__name__, module


def _layers(network: nn.Module) -> Iterator[NormLayer]:
    for name, module in _norms(network):
        if module.running_mean is None or module.running_var is None:
            continue
        scale = module.weight if module.affine else torch.ones_like(module.running_var)
        shift = module.bias if module.affine else torch.zeros_like(module.running_var)
        arrays = [_array(tensor) for tensor in (scale, shift, module.running_mean, module.running_var)]
        yield NormLayer(name, *arrays, module.eps)  # type: ignore[call-arg, arg-type]


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.detach().cpu().double().numpy()
    return array


def _modes(network: nn.Module) -> Iterator[Finding]:
    for name, module in _norms(network):
        if module.training:
            yield Finding(
                Severity.ERROR,
                "train-mode",
                name,
                "normalises by the batch and moves its statistics with every call",
                "Call network.eval() before inference or export.",
            )


def _without_statistics(network: nn.Module) -> Iterator[Finding]:
    for name, module in _norms(network):
        if module.running_mean is None or module.running_var is None:
            yield Finding(
                Severity.ERROR,
                "no-statistics",
                name,
                "keeps no running statistics, and normalises by the batch in eval mode too",
                "Build it with track_running_stats=True and train it.",
            )


def _small_batch(subject: Subject) -> Iterator[Finding]:
    if subject.batch_rows is not None and subject.batch_rows < FEWEST_ROWS and any(_norms(subject.network)):
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


def _overflow(layer: str) -> Finding:
    return Finding(
        Severity.ERROR,
        "input-not-finite",
        layer,
        "gets values that are NaN or infinite from the training data",
        "Look for weights before it that are not finite or far too large.",
    )


def _stale(drift: LayerDrift) -> Iterator[Finding]:
    shift = np.abs(drift.mean_shift)
    ratio = np.maximum(drift.variance_ratio, 1 / drift.variance_ratio)
    far = (shift > FAR_SHIFT) | (ratio > FAR_RATIO)
    near = (shift > NEAR_SHIFT) | (ratio > NEAR_RATIO)
    if far.any() or near.mean() > NEAR_SHARE:
        lowest, highest = drift.variance_ratio.min(), drift.variance_ratio.max()
        yield Finding(
            Severity.WARNING,
            "statistics-stale",
            drift.layer,
            f"{near.sum()} of {len(near)} channels: the data's mean is up to {shift.max():.2g} std away, "
            f"their variance {lowest:.2g} to {highest:.2g} times as large",
            "Take the statistics anew, as normfold export of a run folder does.",
        )


@torch.no_grad()
def _disagreement(network: nn.Module, rows: Tensor) -> Iterator[Finding]:
    """Compare eval mode with BatchNorm alone in train mode, on the same batch; dropout is off in both."""
    if len(rows) < FEWEST_COMPARED_ROWS:
        return
    generator = torch.Generator().manual_seed(0)
    batch = rows[torch.randperm(len(rows), generator=generator)[:COMPARED_ROWS]]
    in_eval = _outputs(network, batch)
    if not in_eval.isfinite().all():
        yield Finding(
            Severity.ERROR,
            "output-not-finite",
            None,
            f"outputs for a batch of {len(batch)} rows are NaN or infinite",
            "Look for weights that are not finite or far too large, first in the layers named here.",
        )
        return
    training = copy.deepcopy(network)
    for _, module in _norms(training):
        module.train()
    in_train = _outputs(training, batch)
    spread = (in_train - in_train.mean(dim=0)).square().mean().sqrt()
    distance = (in_eval - in_train).square().mean().sqrt()
    share = (distance / spread).item() if spread > 0 else 0.0
    if not share <= LARGEST_DISAGREEMENT:
        yield Finding(
            Severity.WARNING,
            "train-eval-disagree",
            None,
            f"outputs differ by {share:.2g} of their own spread over a batch of {len(batch)} rows",
            "Take the statistics anew; if that does not help, train with larger batches or without dropout in between.",
        )


def _outputs(network: nn.Module, batch: Tensor) -> Tensor:
    """Return all floating-point outputs as one table: (rows, values), float64."""
    leaves = [leaf for leaf in tree_leaves(network(batch)) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return torch.cat([leaf.double().reshape(len(batch), -1) for leaf in leaves if len(leaf) == len(batch)], dim=1)
