"""Exponential moving average of the weights, with running statistics of its own.

The average of the weights of many steps often generalises better than those of the last one, the more so the higher
the learning rate still is. Its BatchNorm layers get inputs that no network of the training had, so the statistics of
training do not suit it: they are recalibrated before each evaluation.

Source: Izmailov et al. 2018, arXiv:1803.05407, section 3.2 (the statistics); Tarvainen & Valpola 2017,
arXiv:1703.01780 (the exponential average).
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from normfold.models.data.splits import IndexArray
from normfold.models.statistics.recalibrate import recalibrate

MAX_ROWS, MAX_VALUES = 10_000, 2**28
"""Largest number of training rows, and of their values, that statistics are recalibrated over after each epoch.

Source: Wu & Johnson 2021, arXiv:2105.07576, section 3.2: 1,000 to 10,000 samples suffice.
"""

_PREFIX = "module."

Tensors = tuple[Tensor, ...] | list[Tensor]


class AveragedWeights:
    """The average of a network's weights, in a network of its own."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Copy the network, which must not be wrapped yet.

        Args:
            network: with its initial weights; `update` reads its weights later.
            decay: of the average, between 0 and 1; see `decay_after`.
        """

        def average(averages: Tensors, weights: Tensors, count: Tensor | int) -> None:
            get_ema_multi_avg_fn(decay_after(int(count), decay))(averages, weights, count)  # type: ignore[no-untyped-call]

        self._source = network
        self._model = AveragedModel(network, multi_avg_fn=average)

    @property
    def network(self) -> nn.Module:
        """The network with the averaged weights, and its statistics as of the last `recalibrate`."""
        module = self._model.module
        assert isinstance(module, nn.Module)
        return module

    def to(self, device: torch.device) -> None:
        """Move the average to the device of the network."""
        self._model.to(device)

    def update(self) -> None:
        """Take the network's weights after a step of the optimizer into the average; buffers are copied."""
        self._model.update_parameters(self._source)

    def recalibrate(self, x: Tensor, frozen: Collection[str]) -> None:
        """Measure the running statistics over training rows, and put the network in eval mode.

        Args:
            x: (N, *input_shape).
            frozen: names of BatchNorm layers that keep their statistics.

        Raises:
            StatisticsError: a layer gets values that are not finite, or is called for some batches only.
        """
        recalibrate(self.network, x, frozen=frozen)

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs: weights and buffers by their names, and the count of steps."""
        return {name.removeprefix(_PREFIX): tensor for name, tensor in self._model.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Load what `state` returned."""
        own = self._model.state_dict()
        self._model.load_state_dict({name: state[name.removeprefix(_PREFIX)] for name in own})


def choose_rows(shape: tuple[int, ...]) -> IndexArray:
    """Return training rows to recalibrate over, in ascending order: all, or a fixed random choice of them.

    Args:
        shape: of the training rows, (N, *input_shape).
    """
    count = min(MAX_ROWS, max(1, MAX_VALUES // math.prod(shape[1:])))
    if shape[0] <= count:
        return np.arange(shape[0])
    return np.sort(np.random.default_rng(0).permutation(shape[0])[:count])


def decay_after(count: int, decay: float) -> float:
    """Return the decay after a number of steps: small at first, so that the initial weights are soon forgotten.

        min(decay, (1 + count) / (10 + count))

    Source: TensorFlow's ExponentialMovingAverage with num_updates.
    """
    return min(decay, (1 + count) / (10 + count))
