"""What data tell of a network's BatchNorm layers: stale statistics, values that are not finite, train against eval."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from normfold.contract.audit.findings import Finding, LayerDrift, Severity
from normfold.models.batchnorm.hooks import keeps_statistics, named_norms
from normfold.models.batchnorm.recalibrate import reestimate
from normfold.models.errors import StatisticsError, UnsteadyCallsError

FEWEST_ROWS_TO_JUDGE = 128
"""With fewer, the data's own noise would be what is seen. The mean of so many values is off by 0.09 standard deviations
(one standard error), their variance by 12 %, by 25 % where they are exponential. Of layers with exact statistics, 1 to
512 channels, none of 5,000 was found with normal values and 2 of 5,000 with exponential ones; with 20 normal rows every
fifth is. Rows are counted, and not the positions of a picture, which are much alike."""

COMPARED_ROWS = 256
"""At most, in the one batch in which train and eval mode are compared."""

LARGEST_DISAGREEMENT = 0.4
"""Root mean square of eval - train, as part of the outputs' own spread over the batch. Sound networks trained on digits
(convnet, mlp, resnet; 2 to 20 epochs) gave 0.04 to 0.13 with 256 rows; those with one layer's mean off by a standard
deviation 0.7 to 1.2, or its variance by a factor of 4, 0.5 to 0.8."""

FAR_SHIFT, FAR_RATIO = 1.0, 4.0
"""A single channel that far off is found. A moving average of torch's momentum 0.1 has the noise of 19 batches: with 32
rows in each, 0.04 standard deviations of the mean and 6 % of the variance (20 % with heavy tails), and four times as
much in the worst of a thousand channels."""

NEAR_SHIFT, NEAR_RATIO, NEAR_SHARE, FEWEST_NEAR = 0.5, 2.0, 0.1, 2
"""So is a tenth of a layer's channels at half of that, and two at least: that many are no outliers of noise."""


@dataclass
class Seen:
    """What data told."""

    findings: list[Finding] = field(default_factory=list)
    drifts: dict[str, LayerDrift] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    fitting: set[str] = field(default_factory=set)
    """Layers whose statistics were judged, and fit the data."""


def compare_with_data(network: nn.Module, rows: Tensor, unfit: Collection[str], say: Callable[[str], None]) -> Seen:
    """Compare statistics with those of data, and train with eval mode; the network stays as it is.

    Args:
        network: in eval mode.
        rows: (N, *input_shape).
        unfit: layers whose statistics are known to be wrong already.
        say: called with what is being done, in words.

    Returns:
        All of it; what cannot be judged is a note.
    """
    seen = Seen()
    _compare_statistics(network, rows, unfit, say, seen)
    if len(rows) < FEWEST_ROWS_TO_JUDGE:
        seen.notes.append(
            f"Whether statistics are stale, and train and eval mode agree, was not judged: that takes "
            f"{FEWEST_ROWS_TO_JUDGE} rows, and the data have {len(rows)}."
        )
        return seen
    say("comparing train and eval mode")
    try:
        seen.findings += _disagreement(network, rows)
    except _NoOutputsError:
        seen.notes.append(
            "Train and eval mode were not compared: the network gives no floating-point output of one row a sample."
        )
    except Exception as error:  # noqa: BLE001 -- a user's own network may raise anything
        seen.notes.append(f"Train and eval mode were not compared: {first_line(error)}")
    return seen


def first_line(error: Exception) -> str:
    """Return what an error says, as the end of a sentence."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return line if line.endswith(".") else f"{line}."


def _compare_statistics(
    network: nn.Module, rows: Tensor, unfit: Collection[str], say: Callable[[str], None], seen: Seen
) -> None:
    try:
        seen.drifts = {drift.layer: drift for drift in reestimate(copy.deepcopy(network), rows, say)}
    except UnsteadyCallsError as error:
        seen.notes.append(str(error))
        return
    except StatisticsError as error:
        seen.findings.append(_overflow(error.layer))
        return
    except Exception as error:  # noqa: BLE001 -- a user's own network may raise anything
        seen.notes.append(f"Statistics were not compared with data: {first_line(error)}")
        return
    seen.notes += [
        f"BatchNorm {name!r} is not called in inference, so its statistics were not compared with data."
        for name, norm in named_norms(network)
        if keeps_statistics(norm) and name not in seen.drifts
    ]
    if len(rows) < FEWEST_ROWS_TO_JUDGE:
        return
    judged = [drift for drift in seen.drifts.values() if drift.layer not in unfit]
    stale = [found for drift in judged for found in _stale(drift)]
    seen.findings += stale
    seen.fitting = {drift.layer for drift in judged} - {found.layer for found in stale if found.layer}


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
    with np.errstate(divide="ignore"):  # a variance of 0 and no epsilon
        ratio = np.maximum(drift.variance_ratio, 1 / drift.variance_ratio)
    far = (shift > FAR_SHIFT) | (ratio > FAR_RATIO)
    near = (shift > NEAR_SHIFT) | (ratio > NEAR_RATIO)
    if far.any() or (near.sum() >= FEWEST_NEAR and near.mean() > NEAR_SHARE):
        lowest, highest = drift.variance_ratio.min(), drift.variance_ratio.max()
        yield Finding(
            Severity.WARNING,
            "statistics-stale",
            drift.layer,
            f"{near.sum()} of {len(near)} channels: the data's mean is up to {shift.max():.2g} std away, "
            f"their variance {lowest:.2g} to {highest:.2g} times as large",
            "Take the statistics anew, as normfold export of a run folder does.",
        )


class _NoOutputsError(Exception):
    """Nothing that a network gives can be compared row by row."""


@torch.no_grad()
def _disagreement(network: nn.Module, rows: Tensor) -> Iterator[Finding]:
    """Compare eval mode with BatchNorm alone in train mode, on the same batch; dropout is off in both."""
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
    for _, norm in named_norms(training):
        norm.train()
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
    """Return all floating-point outputs of one row a sample as one table: (rows, values), float64."""
    by_row = [
        leaf.double().reshape(len(batch), -1)
        for leaf in _tensors(network(batch))
        if leaf.is_floating_point() and leaf.ndim and len(leaf) == len(batch)
    ]
    if not by_row:
        raise _NoOutputsError
    return torch.cat(by_row, dim=1)


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors in what a network gives: a tensor, or tuples, lists, dicts and dataclasses of them."""
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            yield leaf
        elif dataclasses.is_dataclass(leaf):
            yield from _tensors([getattr(leaf, part.name) for part in dataclasses.fields(leaf)])
