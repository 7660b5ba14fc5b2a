"""The parts that classifiers share: the plan of their stages, and the head of pooling, dropout and a linear layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from normfold.models.architectures.blocks import initialise


class PooledClassifier(nn.Module):
    """A classifier over channels: logits = W dropout(mean over space of features(x)) + b.

    A subclass builds its layers, calls `add_head` last, and implements `features`. Dropout follows the last
    BatchNorm: before one, it would make the variance in training larger than in inference (Li et al. 2019,
    arXiv:1801.05134).

    Shapes:
        x (N, C, *size) -> logits (N, classes).
    """

    dropout: nn.Dropout
    classifier: nn.Linear

    def add_head(self, channels: int, classes: int, dropout: float) -> None:
        """Add dropout and the linear layer, and initialise the weights of the whole network.

        Args:
            channels: channels that `features` returns.
            classes: number of logits.
            dropout: probability that a channel's mean is set to 0 in training.
        """
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)
        initialise(self)

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Return the last feature maps: (N, C, *size) -> (N, channels, *reduced size)."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)  # (N, C, *size) -> (N, channels, *reduced size)
        pooled = global_average(features)  # (N, channels)
        logits: Tensor = self.classifier(self.dropout(pooled))  # (N, classes)
        return logits


def global_average(x: Tensor) -> Tensor:
    """Return the mean over every spatial axis: (N, C, *size) -> (N, C)."""
    return torch.mean(x, dim=tuple(range(2, x.ndim)))


def plan_blocks(depths: Sequence[int], widths: Sequence[int], strides: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (stage, width, stride) of every block, in order; only the first block of a stage has a stride above 1.

    Args:
        depths: number of blocks of each stage.
        widths: channels of each stage.
        strides: stride of the first block of each stage.

    Raises:
        ValueError: the three differ in length.
    """
    for stage, (depth, width, stride) in enumerate(zip(depths, widths, strides, strict=True)):
        for block in range(depth):
            yield stage, width, stride if block == 0 else 1


def halving_strides(stages: int, first: int = 1) -> list[int]:
    """Return strides that halve the size from each stage to the next: [first, 2, 2, …]."""
    return [first, *[2] * (stages - 1)]
