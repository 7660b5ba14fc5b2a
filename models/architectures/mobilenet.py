"""Inverted residuals with linear bottlenecks, whose 3 × 3 convolutions are depthwise.

Source: Sandler et al. 2018, arXiv:1801.04381.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from normfold.models.architectures.arg_checks import (
    check_count,
    check_counts,
    check_dropout,
    check_picture,
    check_stages,
)
from normfold.models.architectures.blocks import ConvNorm, global_average, initialise
from normfold.models.errors import ArchitectureError

ACTIVATION = "relu6"


class InvertedResidual(nn.Module):
    """y = F(x), plus x where the shape stays; F widens by a 1 × 1, filters depthwise, and narrows by a linear 1 × 1.

    Shapes:
        x (N, channels_in, H, W) -> y (N, channels_out, ceil(H / stride), ceil(W / stride)).

    Args:
        channels_in: channels of x.
        channels_out: channels of y.
        stride: of the depthwise convolution.
        expansion: times as many channels in between; with 1 there is no widening convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        layers: list[nn.Module] = [ConvNorm(channels_in, wide, 1, activation=ACTIVATION)] if expansion > 1 else []
        layers += [
            ConvNorm(wide, wide, 3, stride=stride, groups=wide, activation=ACTIVATION),
            ConvNorm(wide, channels_out, 1, activation="none"),
        ]
        self.residual = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.residual(x)
        return x + residual if self.has_shortcut else residual


class MobileNet(nn.Module):
    """Stem, stages of inverted residuals, a widening 1 × 1, global average, optional dropout, linear classifier.

    Dropout stands after the last BatchNorm (Li et al. 2019, arXiv:1801.05134).

    Shapes:
        x (N, channels, H, W) -> logits (N, classes).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        expansion: int,
        stem_width: int,
        stem_stride: int,
        head_width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.stem = ConvNorm(channels, stem_width, 3, stride=stem_stride, activation=ACTIVATION)
        channels = stem_width
        layers: list[nn.Module] = []
        for stage, (depth, width, stride) in enumerate(zip(depths, widths, strides, strict=True)):
            for index in range(depth):
                own_stride = stride if index == 0 else 1
                layers.append(InvertedResidual(channels, width, own_stride, 1 if stage == 0 else expansion))
                channels = width
        self.stages = nn.Sequential(*layers)
        self.head = ConvNorm(channels, head_width, 1, activation=ACTIVATION)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(head_width, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(self.stages(self.stem(x)))  # (N, C, H, W) -> (N, head_width, H', W')
        pooled = global_average(features)  # (N, head_width)
        logits: Tensor = self.classifier(self.dropout(pooled))  # (N, classes)
        return logits


def mobilenet(
    input_shape: Sequence[int],
    classes: int,
    *,
    depths: Sequence[int] = (1, 2),
    widths: Sequence[int] = (16, 32),
    strides: Sequence[int] = (1, 2),
    expansion: int = 6,
    stem_width: int = 16,
    stem_stride: int = 1,
    head_width: int = 128,
    dropout: float = 0.0,
) -> MobileNet:
    """Build a network of inverted residuals.

    Args:
        input_shape: (channels, height, width).
        classes: number of logits.
        depths: blocks in each stage.
        widths: channels of each stage.
        strides: of the first block of each stage.
        expansion: times as many channels inside a block; the first stage has as many as it takes, as published.
        stem_width: channels of the first convolution.
        stem_stride: of the first convolution; 2 for large pictures.
        head_width: channels of the last convolution.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: rows instead of pictures, or a wrong option.
    """
    check_picture("mobilenet", input_shape)
    check_stages(depths, widths)
    check_counts("strides", strides)
    if len(strides) != len(widths):
        raise ArchitectureError(
            f"Give one stride for each width; got strides {list(strides)} and widths {list(widths)}."
        )
    counts = {"expansion": expansion, "stem_width": stem_width, "stem_stride": stem_stride, "head_width": head_width}
    for name, value in counts.items():
        check_count(name, value)
    check_dropout(dropout)
    return MobileNet(
        input_shape[0],
        classes,
        depths=depths,
        widths=widths,
        strides=strides,
        dropout=dropout,
        **counts,
    )
