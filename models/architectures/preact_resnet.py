"""Residual networks, version 2: the normalisation stands before the weight layer, and the shortcut stays clean.

Source: He et al. 2016, arXiv:1603.05027. The sum that ends a unit goes to a BatchNorm and, past it, into the next sum:
that BatchNorm can fold neither back, since the sum has another reader, nor forward, since a relu follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from normfold.models.architectures.arg_checks import check_choice, check_dropout, check_picture, check_stages
from normfold.models.architectures.blocks import NormActivation, NormConv, global_average, initialise, plain_convolution
from normfold.models.architectures.stem import Stem, make_stem

EXPANSIONS = {"basic": 1, "bottleneck": 4}
"""Channels that a unit gives, in its width."""


class PreactUnit(nn.Module):
    """y = F(a) + x with a = relu(norm(x)); where the shape changes, y = F(a) + projection(a).

    Shapes:
        x (N, channels_in, H, W) -> y (N, width * expansion, ceil(H / stride), ceil(W / stride)).

    Args:
        channels_in: channels of x.
        width: channels inside.
        stride: of the first 3 × 3 convolution, and of the projection.
        block: F is two 3 × 3 convolutions (`basic`), or a 1 × 1, a 3 × 3 and a widening 1 × 1 (`bottleneck`).
        first: the unit comes right behind the stem, whose activation it shares with the shortcut: a = x.
    """

    def __init__(self, channels_in: int, width: int, stride: int, *, block: str, first: bool) -> None:
        super().__init__()
        channels_out = width * EXPANSIONS[block]
        self.activated = nn.Identity() if first else NormActivation(channels_in)
        if block == "basic":
            layers: list[nn.Module] = [plain_convolution(channels_in, width, 3, stride), NormConv(width, width, 3)]
        else:
            layers = [
                plain_convolution(channels_in, width, 1),
                NormConv(width, width, 3, stride=stride),
                NormConv(width, channels_out, 1),
            ]
        self.residual = nn.Sequential(*layers)
        changes = channels_in != channels_out or stride != 1
        self.projection = plain_convolution(channels_in, channels_out, 1, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activated(x)
        shortcut = x if self.projection is None else self.projection(activated)
        total: Tensor = self.residual(activated) + shortcut
        return total


class PreactResNet(nn.Module):
    """Stem, stages of units, BatchNorm, global average, optional dropout, linear classifier.

    Dropout stands after the last BatchNorm (Li et al. 2019, arXiv:1801.05134).

    Shapes:
        x (N, channels, H, W) -> logits (N, classes).
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        block: str,
        depths: Sequence[int],
        widths: Sequence[int],
        stem: Stem,
        dropout: float,
    ) -> None:
        super().__init__()
        self.stem = make_stem(input_shape, widths[0], stem)
        channels = widths[0]
        units: list[nn.Module] = []
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                units.append(PreactUnit(channels, width, stride, block=block, first=not units))
                channels = width * EXPANSIONS[block]
        self.stages = nn.Sequential(*units)
        self.last = NormActivation(channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        features = self.last(self.stages(self.stem(x)))  # (N, C, H, W) -> (N, channels, H', W')
        pooled = global_average(features)  # (N, channels)
        logits: Tensor = self.classifier(self.dropout(pooled))  # (N, classes)
        return logits


def preact_resnet(
    input_shape: Sequence[int],
    classes: int,
    *,
    block: Literal["basic", "bottleneck"] = "basic",
    depths: Sequence[int] = (2, 2, 2),
    widths: Sequence[int] = (16, 32, 64),
    stem: Stem = "auto",
    dropout: float = 0.0,
) -> PreactResNet:
    """Build a residual network of pre-activated units.

    Args:
        input_shape: (channels, height, width).
        classes: number of logits.
        block: two 3 × 3 convolutions, or a bottleneck of 1 × 1, 3 × 3 and 1 × 1.
        depths: units in each stage; the size is halved between stages.
        widths: channels of each stage, a quarter of the output for bottlenecks.
        stem: see `models.architectures.stem.make_stem`.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: rows instead of pictures, or a wrong option.
    """
    check_picture("preact_resnet", input_shape)
    check_choice("block", block, list(EXPANSIONS))
    check_stages(depths, widths)
    check_dropout(dropout)
    return PreactResNet(input_shape, classes, block=block, depths=depths, widths=widths, stem=stem, dropout=dropout)
