"""Running statistics taken anew: the mean and variance of all that a BatchNorm gets from the training data.

A moving average remembers batches that older weights made, the more so the faster the weights moved, and the noise of
each batch. Here the weights are frozen and every training row runs through the network in inference.

Layers are measured one after the other, in the order of their calls, each with the new statistics of those before it
already in place. So the result is what it says: with it in place, each BatchNorm normalises the training data to mean 0
and variance 1. All at once, in inference, would measure each layer behind the old statistics of the others, and correct
the same change again in every later layer. For L layers the data run L times, on average through half of the network.

`torch.optim.swa_utils.update_bn` does something else. It puts the network in train mode, dropout included, normalises
each batch by itself, and with momentum None averages means and unbiased variances of batches: a last batch of few rows
counts as much as any other, and the variance between the batches' means is lost (the law of total variance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from contract.findings import LayerDrift
from models.errors import StatisticsError

ROWS, VALUES = 1024, 2**22
"""Most rows, and values of them, that run at a time; how many changes no result."""


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
        values = x.double().transpose(0, 1).flatten(1)  # (C, N * positions)
        mean = values.mean(dim=1)
        squares = (values - mean[:, None]).square().sum(dim=1)
        both = self.count + values.shape[1]
        apart, share = mean - self.mean, values.shape[1] / both
        self._squares = self._squares + squares + apart.square() * self.count * share
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
    """
    network.eval()
    layers = dict(network.named_modules())
    calls = count_calls(network, x[:2])
    drifts = []
    for number, (name, times) in enumerate(calls.items(), start=1):
        say(f"taking the statistics of BatchNorm {number} of {len(calls)} anew")
        layer = layers[name]
        assert isinstance(layer, _BatchNorm)
        moments = _measure(network, layer, times, split(x))
        mean, variance = moments.mean, moments.variance
        if not (mean.isfinite().all() and variance.isfinite().all()):
            raise StatisticsError(name)
        assert layer.running_mean is not None  # count_calls names no other
        assert layer.running_var is not None
        drifts.append(_drift(name, layer.running_mean, layer.running_var, mean, variance, layer.eps))
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
    return tuple(drifts)


@torch.no_grad()
def count_calls(network: nn.Module, example: Tensor) -> dict[str, int]:
    """Return how often each BatchNorm that keeps statistics is called for one batch, in the order of first calls."""
    calls: dict[str, int] = {}

    def count(name: str) -> None:
        calls[name] = calls.get(name, 0) + 1

    with looking_at(network, lambda name, *_: count(name)):
        network(example)
    return calls


@contextmanager
def looking_at(network: nn.Module, look: Callable[[str, _BatchNorm, Tensor], None]) -> Iterator[None]:
    """Call `look` with the name, the layer and its input before each BatchNorm that keeps statistics runs."""
    handles = [
        module.register_forward_pre_hook(
            lambda layer, args, kwargs, name=name: look(name, layer, args[0] if args else kwargs["input"]),
            with_kwargs=True,
        )
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def split(x: Tensor) -> Sequence[Tensor]:
    """Cut rows into batches that fit into memory."""
    return torch.split(x, max(1, min(ROWS, VALUES // max(1, x[0].numel()))))


def _measure(network: nn.Module, layer: nn.Module, calls: int, batches: Sequence[Tensor]) -> Moments:
    moments = Moments()
    seen = 0

    def look(_name: str, called: nn.Module, x: Tensor) -> None:
        nonlocal seen
        if called is not layer:
            return
        moments.add(x)
        seen += 1
        if seen % calls == 0:
            raise _MeasuredError

    with looking_at(network, look):
        for batch in batches:
            with suppress(_MeasuredError):
                network(batch)
    return moments


def _drift(name: str, old_mean: Tensor, old_var: Tensor, mean: Tensor, var: Tensor, epsilon: float) -> LayerDrift:
    shift = (mean - old_mean.double()) / (old_var.double() + epsilon).sqrt()
    ratio = (var + epsilon) / (old_var.double() + epsilon)
    arrays: list[Any] = [array.cpu().numpy() for array in (shift, ratio)]
    return LayerDrift(name, *arrays)
