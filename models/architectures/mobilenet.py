"""MobileNetV2: inverted residuals with linear bottlenecks, whose 3 × 3 convolutions are depthwise.

Source: Sandler et al. 2018, arXiv:1801.04381.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from normfold.models.architectures.arg_checks import (
    check_count,
    check_counts,
    check_dropout,
    check_image_shape,
    check_stages,
)
from normfold.models.architectures.blocks import ConvBatchNorm
from normfold.models.architectures.classifier import PooledClassifier, plan_blocks
from normfold.models.errors import ArchitectureError

ACTIVATION = "relu6"


class InvertedResidual(nn.Module):
    """y = F(x) + x, or y = F(x) where the shape changes.

    F is a 1 × 1 convolution to `expansion * channels_in` channels, a depthwise 3 × 3 convolution, and a 1 × 1
    convolution to `channels_out` channels without activation, each a ConvBatchNorm.

    Shapes:
        x (N, channels_in, H, W) -> y (N, channels_out, ceil(H / stride), ceil(W / stride)).

    Args:
        channels_in: channels of x.
        channels_out: channels of y.
        stride: of the depthwise convolution.
        expansion: channels inside, as a multiple of `channels_in`; with 1, F has no first convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        layers: list[nn.Module] = [ConvBatchNorm(channels_in, wide, 1, activation=ACTIVATION)] if expansion > 1 else []
        layers += [
            ConvBatchNorm(wide, wide, 3, stride=stride, groups=wide, activation=ACTIVATION),
            ConvBatchNorm(wide, channels_out, 1, activation="none"),
        ]
        self.residual = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.residual(x)
        return x + residual if self.has_shortcut else residual


class MobileNet(PooledClassifier):
    """Stem, stages of inverted residuals, a 1 × 1 convolution to `head_width` channels, the head of PooledClassifier.

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
        self.stem = ConvBatchNorm(channels, stem_width, 3, stride=stem_stride, activation=ACTIVATION)
        channels = stem_width
        layers: list[nn.Module] = []
        for stage, width, stride in plan_blocks(depths, widths, strides):
            layers.append(InvertedResidual(channels, width, stride, 1 if stage == 0 else expansion))
            channels = width
        self.stages = nn.Sequential(*layers)
        self.head = ConvBatchNorm(channels, head_width, 1, activation=ACTIVATION)
        self.add_head(head_width, classes, dropout)

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (N, C, H, W) -> (N, stem_width, H / stem_stride, W / stem_stride)
        features: Tensor = self.head(self.stages(x))  # (N, head_width, H', W'), divided by the strides
        return features


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
        expansion: channels inside a block, as a multiple of its input's; always 1 in the first stage, as published.
        stem_width: channels of the first convolution.
        stem_stride: stride of the first convolution; 2 for large images.
        head_width: channels of the last convolution.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: samples that are not images, or a wrong option.
    """
    check_image_shape("mobilenet", input_shape)
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
