"""Recalibration: running statistics over the whole training data, with the weights frozen ("precise BN").

A moving average contains batches of earlier weights, the more the faster the weights changed, and the noise of every
batch. Here all training rows run through the network in inference mode.

Layers are measured one after the other, in the order of their calls, each with the new statistics of the layers before
it in place. So each BatchNorm of the result normalises the training data to mean 0 and variance 1. Measuring all layers
at once would measure each after the old statistics of the others, and correct the same difference again in every later
layer.

Where all rows fit into memory together, one pass is enough: each layer is measured when its input arrives, and the pass
goes on with the new statistics. Where they do not, the rows run in batches, and the data run L times for L layers, on
average through half of the network.

`torch.optim.swa_utils.update_bn` computes something else: it runs in train mode, with dropout, normalises each batch by
itself, and with momentum None averages the batches' means and unbiased variances. A last batch of few rows then counts
as much as any other, and the variance between the batches' means is lost (the law of total variance).

Source: Wu & Johnson 2021, arXiv:2105.07576, section 3.2 (PreciseBN); here layer by layer and in inference mode.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.contract.audit.findings import StatisticsDifference
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.models.errors import StatisticsError, VaryingCallsError
from normfold.models.statistics.hooks import has_running_statistics, input_hooks, named_batchnorms

MAX_VALUES = 2**25
"""Maximum number of values that the widest layer gets at a time, 256 MiB in float64; it does not change the result."""


class Moments:
    """Mean and variance of each channel, merged from batches of any size.

    For two parts of n_a and n_b values with means m_a, m_b and centred sums of squares s_a, s_b:
        m = m_a + (m_b - m_a) * n_b / n        s = s_a + s_b + (m_b - m_a)² * n_a * n_b / n        n = n_a + n_b

    Source: Chan, Golub & LeVeque 1983, The American Statistician 37(3), equation 2.1.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Add a batch (N, C, *size) of any floating-point dtype; computed in float64."""
        count = x.numel() // x.shape[1]
        variance, mean = torch.var_mean(x.double(), dim=[0, *range(2, x.ndim)], correction=0)  # (C,), (C,)
        total = self.count + count
        difference, fraction = mean - self.mean, count / total
        self._squares = self._squares + variance * count + difference.square() * self.count * fraction
        self.mean = self.mean + difference * fraction
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Biased variance (C,), float64: divided by the count, as a training batch is normalised."""
        return self._squares / self.count


class RowReader(Protocol):
    """Rows that are read from files, as often as they are needed."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def inputs(self, size: int) -> Iterator[Tensor]:
        """Yield the network's inputs of all rows in order, at most `size` rows at a time: (size, *input_shape)."""


class _LayerMeasuredError(Exception):
    """Ends a forward pass at the layer that is measured, since the layers after it do not matter."""


@torch.no_grad()
def recalibrate(
    network: nn.Module,
    x: Tensor | RowReader,
    progress: ProgressCallback = ignore_progress,
    frozen: Collection[str] = (),
) -> tuple[StatisticsDifference, ...]:
    """Set the running statistics of every BatchNorm that the network calls to the statistics of its inputs over `x`.

    A BatchNorm that is called several times gets the statistics of all its calls together. The counter of batches, and
    layers that are never called or keep no running statistics, are not changed. The network is put in eval mode.

    Args:
        network: any network that takes one tensor.
        x: the training rows, (N, *input_shape), or a reader of them.
        progress: called with each step, in words.
        frozen: names of layers that keep their statistics.

    Returns:
        Difference between old and new statistics, by layer, in the order of their first calls.

    Raises:
        StatisticsError: a layer gets values that are not finite; the layers before it have new statistics.
        VaryingCallsError: a layer is called for some batches and not for others; likewise.
    """
    network.eval()
    calls, widest = _count_calls(network, x[:2] if isinstance(x, Tensor) else next(x.inputs(2)))
    size = max(1, MAX_VALUES // widest)
    batches = -(-len(x) // size)  # rounded up
    pending = [name for name in calls if name not in frozen]
    measured = len(pending)
    differences: list[StatisticsDifference] = []
    moments, calls_measured = Moments(), 0

    def measure(name: str, layer: _BatchNorm, values: Tensor) -> None:
        nonlocal moments, calls_measured
        if not pending or name != pending[0]:
            return
        moments.add(values)
        calls_measured += 1
        if calls_measured % calls[name]:
            return  # the layer is called again for this batch
        if calls_measured == calls[name] * batches:
            progress(f"running statistics: BatchNorm {len(differences) + 1} of {measured} measured")
            differences.append(_replace_statistics(name, layer, moments))
            pending.pop(0)
            moments, calls_measured = Moments(), 0
            if pending and batches == 1 and calls[name] == 1:
                return  # the batch holds all rows: it goes on to the next layer, with the new statistics
        raise _LayerMeasuredError

    with input_hooks(_with_statistics(network), measure):
        while pending:
            first = pending[0]
            for batch in torch.split(x, size) if isinstance(x, Tensor) else x.inputs(size):
                with suppress(_LayerMeasuredError):
                    network(batch)
            if pending and pending[0] == first:
                raise VaryingCallsError(first)
    return tuple(differences)


def _with_statistics(network: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    return ((name, layer) for name, layer in named_batchnorms(network) if has_running_statistics(layer))


def _count_calls(network: nn.Module, example: Tensor) -> tuple[dict[str, int], int]:
    """Return the calls of each BatchNorm per batch, in order of first calls, and the values per row of the widest."""
    calls: dict[str, int] = {}
    widest = max(1, example[0].numel())

    def count(name: str, _: _BatchNorm, values: Tensor) -> None:
        nonlocal widest
        calls[name] = calls.get(name, 0) + 1
        widest = max(widest, values.numel() // len(example))

    with input_hooks(_with_statistics(network), count):
        network(example)
    return calls, widest


def _replace_statistics(name: str, layer: _BatchNorm, moments: Moments) -> StatisticsDifference:
    """Replace a layer's running statistics, and return their difference from the old ones."""
    mean, variance = moments.mean, moments.variance
    if not (mean.isfinite().all() and variance.isfinite().all()):
        raise StatisticsError(name, "gets values that are not finite; look for weights or data that are not finite.")
    assert layer.running_mean is not None  # only layers with statistics have the hook
    assert layer.running_var is not None
    old_mean, old_var = layer.running_mean.double(), layer.running_var.double() + layer.eps
    difference, ratio = (mean - old_mean) / old_var.sqrt(), (variance + layer.eps) / old_var
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    return StatisticsDifference(name, difference.cpu().numpy(), ratio.cpu().numpy())
