"""Blocks of three branches in training, which are one 3 × 3 convolution in inference.

Source: Ding et al. 2021, arXiv:2101.03697. The merge is not done here: the fold finds it in the exported graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from normfold.models.architectures.arg_checks import check_count, check_dropout, check_picture, check_stages
from normfold.models.architectures.blocks import EPSILON, MOMENTUM, ConvNorm, global_average, initialise


class RepVggBlock(nn.Module):
    """y = relu(3 × 3 ConvNorm(x) + 1 × 1 ConvNorm(x) + BatchNorm(x)), the last only where the shape stays.

    Shapes:
        x (N, channels_in, H, W) -> y (N, width, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.dense = ConvNorm(channels_in, width, 3, stride=stride, activation="none")
        self.pointwise = ConvNorm(channels_in, width, 1, stride=stride, activation="none")
        stays = channels_in == width and stride == 1
        self.identity = nn.BatchNorm2d(width, eps=EPSILON, momentum=MOMENTUM) if stays else None

    def forward(self, x: Tensor) -> Tensor:
        total = self.dense(x) + self.pointwise(x)
        return F.relu(total if self.identity is None else total + self.identity(x))


class RepVgg(nn.Module):
    """Stages of three-branched blocks, global average, optional dropout, linear classifier.

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
        first_stride: int,
        dropout: float,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for index in range(depth):
                stride = 1 if index > 0 else 2 if stage > 0 else first_stride
                layers.append(RepVggBlock(channels, width, stride))
                channels = width
        self.stages = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stages(x)  # (N, C, H, W) -> (N, widths[-1], H', W')
        pooled = global_average(features)  # (N, widths[-1])
        logits: Tensor = self.classifier(self.dropout(pooled))  # (N, classes)
        return logits


def repvgg(
    input_shape: Sequence[int],
    classes: int,
    *,
    depths: Sequence[int] = (2, 2),
    widths: Sequence[int] = (32, 64),
    first_stride: int = 1,
    dropout: float = 0.0,
) -> RepVgg:
    """Build a network that is a plain stack of 3 × 3 convolutions once it is folded.

    Args:
        input_shape: (channels, height, width).
        classes: number of logits.
        depths: blocks in each stage; the size is halved between stages.
        widths: channels of each stage.
        first_stride: of the first block; 2 for large pictures, as published.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: rows instead of pictures, or a wrong option.
    """
    check_picture("repvgg", input_shape)
    check_stages(depths, widths)
    check_count("first_stride", first_stride)
    check_dropout(dropout)
    return RepVgg(input_shape[0], classes, depths=depths, widths=widths, first_stride=first_stride, dropout=dropout)
