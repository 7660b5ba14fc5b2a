"""Running statistics taken anew: the mean and variance of all that a BatchNorm gets from the training data.

A moving average remembers batches that older weights made, the more so the faster the weights moved, and the noise of
each batch. Here the weights are frozen and every training row runs through the network in inference.

Layers are measured one after the other, in the order of their calls, each with the new statistics of those before it
already in place. So the result is what it says: with it in place, each BatchNorm normalises the training data to mean 0
and variance 1. All at once, in inference, would measure each layer behind the old statistics of the others, and correct
the same change again in every later layer.

Where all rows fit into memory together, one pass does it: each layer is measured when its input arrives, and goes on
with the new statistics. Where they do not, the rows run in batches, and for L layers the data run L times, on average
through half of the network.

`torch.optim.swa_utils.update_bn` does something else. It puts the network in train mode, dropout included, normalises
each batch by itself, and with momentum None averages means and unbiased variances of batches: a last batch of few rows
counts as much as any other, and the variance between the batches' means is lost (the law of total variance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.contract.audit.findings import LayerDrift
from normfold.models.batchnorm.hooks import keeps_statistics, looking_at, named_norms
from normfold.models.errors import StatisticsError, UnsteadyCallsError

VALUES = 2**25
"""Most values that the widest layer gets at a time, 256 MiB in float64; how many changes no result."""


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
        """Add a batch: (N, C, *size), of any floating-point type; computed in float64."""
        count = x.numel() // x.shape[1]
        variance, mean = torch.var_mean(x.double(), dim=[0, *range(2, x.ndim)], correction=0)
        both = self.count + count
        apart, share = mean - self.mean, count / both
        self._squares = self._squares + variance * count + apart.square() * self.count * share
        self.mean = self.mean + apart * share
        self.count = both

    @property
    def variance(self) -> Tensor:
        """Of the values themselves, divided by their number, as a batch in training is normalised."""
        return self._squares / self.count


class _MeasuredError(Exception):
    """Leaves a forward pass at the layer that is measured: nothing behind it matters."""


@torch.no_grad()
def reestimate(network: nn.Module, x: Tensor, say: Callable[[str], None] = lambda _: None) -> tuple[LayerDrift, ...]:
    """Set the running statistics of every BatchNorm that the network calls to the true ones over some rows.

    A BatchNorm that is called several times gets the statistics of all its calls together. The counter of batches, and
    a BatchNorm that is never called or keeps no statistics, are left alone. The network is put in eval mode.

    Args:
        network: any that takes one tensor.
        x: (N, *input_shape), the training rows.
        say: called with what is being done, in words.

    Returns:
        How far each moved, in the order of their first calls.

    Raises:
        StatisticsError: a layer gets values that are not finite; those before it have new statistics.
        UnsteadyCallsError: a layer is called by some batches and not by others; likewise.
    """
    network.eval()
    calls, widest = _survey(network, x[:2])
    batches = torch.split(x, max(1, VALUES // widest))
    pending = list(calls)
    drifts: list[LayerDrift] = []
    moments, seen = Moments(), 0

    def look(name: str, layer: _BatchNorm, values: Tensor) -> None:
        nonlocal moments, seen
        if not pending or name != pending[0]:
            return
        moments.add(values)
        seen += 1
        if seen % calls[name]:
            return  # it is called again for this batch
        if seen == calls[name] * len(batches):
            say(f"running statistics: BatchNorm {len(drifts) + 1} of {len(calls)} measured")
            drifts.append(_settle(name, layer, moments))
            pending.pop(0)
            moments, seen = Moments(), 0
            if pending and len(batches) == 1 and calls[name] == 1:
                return  # all rows are here: on with the new statistics to the next layer
        raise _MeasuredError

    with looking_at(_kept(network), look):
        while pending:
            first = pending[0]
            for batch in batches:
                with suppress(_MeasuredError):
                    network(batch)
            if pending and pending[0] == first:
                raise UnsteadyCallsError(first)
    return tuple(drifts)


def _kept(network: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    return ((name, norm) for name, norm in named_norms(network) if keeps_statistics(norm))


def _survey(network: nn.Module, example: Tensor) -> tuple[dict[str, int], int]:
    """Return how often each BatchNorm is called for one batch, by first calls, and the values of the widest, a row."""
    calls: dict[str, int] = {}
    widest = max(1, example[0].numel())

    def count(name: str, _: _BatchNorm, values: Tensor) -> None:
        nonlocal widest
        calls[name] = calls.get(name, 0) + 1
        widest = max(widest, values.numel() // len(example))

    with looking_at(_kept(network), count):
        network(example)
    return calls, widest


def _settle(name: str, layer: _BatchNorm, moments: Moments) -> LayerDrift:
    """Put new statistics in the place of the old, and return how far they moved."""
    mean, variance = moments.mean, moments.variance
    if not (mean.isfinite().all() and variance.isfinite().all()):
        raise StatisticsError(name, "gets values that are not finite; look for weights or data that are not finite.")
    assert layer.running_mean is not None  # nobody looks at one without
    assert layer.running_var is not None
    old_mean, old_var = layer.running_mean.double(), layer.running_var.double() + layer.eps
    shift, ratio = (mean - old_mean) / old_var.sqrt(), (variance + layer.eps) / old_var
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    return LayerDrift(name, shift.cpu().numpy(), ratio.cpu().numpy())
