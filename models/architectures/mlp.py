"""Multilayer perceptron: LinearBatchNorm blocks and a linear classifier."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from normfold.models.architectures.arg_checks import check_dropout
from normfold.models.architectures.blocks import LinearBatchNorm, initialise
from normfold.models.errors import ArchitectureError


class Mlp(nn.Module):
    """LinearBatchNorm blocks, dropout, and a linear classifier: logits = W dropout(blocks(flatten(x))) + b.

    Dropout follows the last BatchNorm: before one, it would make the variance in training larger than in
    inference (Li et al. 2019, arXiv:1801.05134).

    Shapes:
        x (N, *input_shape) -> logits (N, classes).
    """

    def __init__(self, features: int, classes: int, widths: Sequence[int], *, activation: str, dropout: float) -> None:
        super().__init__()
        sizes = [features, *widths]
        self.blocks = nn.Sequential(
            *(LinearBatchNorm(before, after, activation=activation) for before, after in itertools.pairwise(sizes))
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(sizes[-1], classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.blocks(x.flatten(1))  # (N, *input_shape) -> (N, features) -> (N, widths[-1])
        logits: Tensor = self.classifier(self.dropout(hidden))  # (N, classes)
        return logits


def mlp(
    input_shape: Sequence[int],
    classes: int,
    *,
    widths: Sequence[int] = (256, 128),
    activation: str = "relu",
    dropout: float = 0.0,
) -> Mlp:
    """Build a multilayer perceptron for samples of any shape, which it flattens.

    Args:
        input_shape: shape of one sample, without the batch axis.
        classes: number of logits.
        widths: features after each block.
        activation: a key of `normfold.models.architectures.blocks.ACTIVATIONS`.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: no widths, an unknown activation, or a wrong dropout.
    """
    if not widths:
        raise ArchitectureError("An mlp needs at least one width, for example widths=[64].")
    check_dropout(dropout)
    return Mlp(math.prod(input_shape), classes, widths, activation=activation, dropout=dropout)
