"""Audit of BatchNorm layers on data: stale statistics, values that are not finite, and train against eval mode."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from normfold.contract.audit.findings import Finding, Severity, StatisticsDifference
from normfold.contract.errors import first_line
from normfold.contract.progress import ProgressCallback
from normfold.models.errors import StatisticsError, VaryingCallsError
from normfold.models.statistics.hooks import has_running_statistics, named_batchnorms
from normfold.models.statistics.recalibrate import recalibrate

MIN_ROWS = 128
"""Rows below which statistics are not compared, since the data's own noise would be found. The mean of 128 values has a
standard error of 0.09 standard deviations, their variance one of 12 %, or 25 % where the values are exponential. Of
5,000 layers with exact statistics and 1 to 512 channels, none was stale with normal values and 2 with exponential ones;
with 20 normal rows, every fifth was. Rows are counted, not the positions of an image, which are correlated."""

COMPARED_ROWS = 256
"""Maximum number of rows of the batch on which train and eval mode are compared."""

MAX_DISAGREEMENT = 0.4
"""Root mean square of (eval output - train output), divided by the outputs' standard deviation over the batch. Sound
networks trained on digits (convnet, mlp, resnet; 2 to 20 epochs) had 0.04 to 0.13 with 256 rows; 0.7 to 1.2 with one
layer's mean wrong by a standard deviation, 0.5 to 0.8 with one layer's variance wrong by a factor of 4."""

STALE_MEAN, STALE_RATIO = 1.0, 4.0
"""Mean difference in standard deviations, and variance ratio, above which a single channel makes a layer stale. A
moving average with momentum 0.1 has the noise of 19 batches: with 32 rows each, 0.04 standard deviations of the mean
and 6 % of the variance (20 % with heavy tails), and four times as much in the worst of a thousand channels."""

STALE_MEAN_OF_MANY, STALE_RATIO_OF_MANY, MANY_FRACTION, MIN_MANY = 0.5, 2.0, 0.1, 2
"""The two limits for many channels: a layer is stale if a tenth of its channels, and at least two, exceed them."""


@dataclass
class DataComparison:
    """Result of comparing a network with data."""

    findings: list[Finding] = field(default_factory=list)
    differences: dict[str, StatisticsDifference] = field(default_factory=dict)
    """Running statistics against those of the data, by layer."""
    notes: list[str] = field(default_factory=list)
    """Comparisons that were left out, with the reason."""
    matching: set[str] = field(default_factory=set)
    """Layers whose running statistics match the data."""


def compare_with_data(
    network: nn.Module, rows: Tensor, invalid: Collection[str], progress: ProgressCallback
) -> DataComparison:
    """Compare running statistics with those of data, and the outputs in train mode with those in eval mode.

    Args:
        network: in eval mode; it is not changed.
        rows: (N, *input_shape).
        invalid: layers whose statistics are known to be wrong, and are not compared.
        progress: called with each step, in words.

    Returns:
        Findings and differences; a comparison that is not possible is a note.
    """
    result = DataComparison()
    _compare_statistics(network, rows, invalid, progress, result)
    if len(rows) < MIN_ROWS:
        result.notes.append(
            f"Statistics were not checked for staleness, and train and eval mode were not compared: this needs "
            f"{MIN_ROWS} rows, and the data have {len(rows)}."
        )
        return result
    progress("comparing train and eval mode")
    try:
        result.findings += _disagreement(network, rows)
    except _NoOutputsError:
        result.notes.append(
            "Train and eval mode were not compared: the network returns no floating-point output with a row per sample."
        )
    except Exception as error:  # noqa: BLE001 -- a user's own network may raise anything
        result.notes.append(f"Train and eval mode were not compared: {as_sentence(error)}")
    return result


def as_sentence(error: Exception) -> str:
    """Return the first line of an error's message with a full stop."""
    return first_line(error).rstrip(".") + "."


def _compare_statistics(
    network: nn.Module, rows: Tensor, invalid: Collection[str], progress: ProgressCallback, result: DataComparison
) -> None:
    try:
        recalibrated = recalibrate(copy.deepcopy(network), rows, progress)
    except VaryingCallsError as error:
        result.notes.append(str(error))
        return
    except StatisticsError as error:
        result.findings.append(_input_not_finite(error.layer))
        return
    except Exception as error:  # noqa: BLE001 -- a user's own network may raise anything
        result.notes.append(f"Statistics were not compared with data: {as_sentence(error)}")
        return
    result.differences = {difference.layer: difference for difference in recalibrated}
    result.notes += [
        f"BatchNorm {name!r} is not called in inference, so its statistics were not compared with data."
        for name, layer in named_batchnorms(network)
        if has_running_statistics(layer) and name not in result.differences
    ]
    if len(rows) < MIN_ROWS:
        return
    compared = [difference for difference in recalibrated if difference.layer not in invalid]
    stale = [finding for difference in compared for finding in _stale(difference)]
    result.findings += stale
    result.matching = {each.layer for each in compared} - {finding.layer for finding in stale if finding.layer}


def _input_not_finite(layer: str) -> Finding:
    return Finding(
        Severity.ERROR,
        "input-not-finite",
        layer,
        "gets values that are NaN or infinite from the training data",
        "Look for weights before it that are not finite or far too large.",
    )


def _stale(difference: StatisticsDifference) -> Iterator[Finding]:
    means = np.abs(difference.mean_difference)
    with np.errstate(divide="ignore"):  # a variance of 0 and no epsilon
        ratios = np.maximum(difference.variance_ratio, 1 / difference.variance_ratio)
    single = (means > STALE_MEAN) | (ratios > STALE_RATIO)
    many = (means > STALE_MEAN_OF_MANY) | (ratios > STALE_RATIO_OF_MANY)
    if single.any() or (many.sum() >= MIN_MANY and many.mean() > MANY_FRACTION):
        lowest, highest = difference.variance_ratio.min(), difference.variance_ratio.max()
        yield Finding(
            Severity.WARNING,
            "statistics-stale",
            difference.layer,
            f"{many.sum()} of {len(many)} channels: the data's mean is up to {means.max():.2g} std away, "
            f"their variance {lowest:.2g} to {highest:.2g} times as large",
            "Recalibrate the statistics, as normfold export of a run folder does.",
        )


class _NoOutputsError(Exception):
    """The network returns no output that can be compared row by row."""


@torch.no_grad()
def _disagreement(network: nn.Module, rows: Tensor) -> Iterator[Finding]:
    """Compare the outputs in eval mode with those with only BatchNorm in train mode, on one batch, without dropout."""
    generator = torch.Generator().manual_seed(0)
    batch = rows[torch.randperm(len(rows), generator=generator)[:COMPARED_ROWS]]
    in_eval = _outputs(network, batch)
    if not in_eval.isfinite().all():
        yield Finding(
            Severity.ERROR,
            "output-not-finite",
            None,
            f"outputs for a batch of {len(batch)} rows are NaN or infinite",
            "Look for weights that are not finite or far too large, first in the layers with findings.",
        )
        return
    training = copy.deepcopy(network)
    for _, layer in named_batchnorms(training):
        layer.train()
    in_train = _outputs(training, batch)
    deviation = (in_train - in_train.mean(dim=0)).square().mean().sqrt()
    difference = (in_eval - in_train).square().mean().sqrt()
    relative = (difference / deviation).item() if deviation > 0 else 0.0
    if not relative <= MAX_DISAGREEMENT:
        yield Finding(
            Severity.WARNING,
            "train-eval-disagree",
            None,
            f"outputs differ by {relative:.2g} of their standard deviation over a batch of {len(batch)} rows",
            "Recalibrate; if that does not help, train with larger batches, or without dropout before a BatchNorm.",
        )


def _outputs(network: nn.Module, batch: Tensor) -> Tensor:
    """Return all floating-point outputs with a row per sample as one array: (rows, values), float64."""
    by_row = [
        leaf.double().reshape(len(batch), -1)
        for leaf in _tensors(network(batch))
        if leaf.is_floating_point() and leaf.ndim and len(leaf) == len(batch)
    ]
    if not by_row:
        raise _NoOutputsError
    return torch.cat(by_row, dim=1)


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors of a network's result: a tensor, or tuples, lists, dicts and dataclasses of tensors."""
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            yield leaf
        elif dataclasses.is_dataclass(leaf):
            yield from _tensors([getattr(leaf, part.name) for part in dataclasses.fields(leaf)])
