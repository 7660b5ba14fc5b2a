"""RepVGG: blocks of three branches in training, each of which merges into one 3 × 3 convolution for inference.

The network keeps its branches here; `normfold fold` merges them in the exported graph.

Source: Ding et al. 2021, arXiv:2101.03697.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from normfold.models.architectures.arg_checks import check_count, check_dropout, check_image_shape, check_stages
from normfold.models.architectures.blocks import EPSILON, MOMENTUM, ConvBatchNorm
from normfold.models.architectures.classifier import PooledClassifier, halving_strides, plan_blocks


class RepVggBlock(nn.Module):
    """y = relu(dense(x) + pointwise(x) + identity(x)).

    `dense` is a 3 × 3 and `pointwise` a 1 × 1 ConvBatchNorm; `identity` is a BatchNorm, and left out where the shape
    changes.

    Shapes:
        x (N, channels_in, H, W) -> y (N, width, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.dense = ConvBatchNorm(channels_in, width, 3, stride=stride, activation="none")
        self.pointwise = ConvBatchNorm(channels_in, width, 1, stride=stride, activation="none")
        stays = channels_in == width and stride == 1
        self.identity = nn.BatchNorm2d(width, eps=EPSILON, momentum=MOMENTUM) if stays else None

    def forward(self, x: Tensor) -> Tensor:
        total = self.dense(x) + self.pointwise(x)
        return F.relu(total if self.identity is None else total + self.identity(x))


class RepVgg(PooledClassifier):
    """Stages of RepVggBlock, then the head of PooledClassifier.

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
        for _, width, stride in plan_blocks(depths, widths, halving_strides(len(widths), first_stride)):
            layers.append(RepVggBlock(channels, width, stride))
            channels = width
        self.stages = nn.Sequential(*layers)
        self.add_head(channels, classes, dropout)

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.stages(x)  # (N, C, H, W) -> (N, widths[-1], H', W'), divided by the strides
        return features


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
        first_stride: stride of the first block; 2 for large images, as published.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: samples that are not images, or a wrong option.
    """
    check_image_shape("repvgg", input_shape)
    check_stages(depths, widths)
    check_count("first_stride", first_stride)
    check_dropout(dropout)
    return RepVgg(input_shape[0], classes, depths=depths, widths=widths, first_stride=first_stride, dropout=dropout)
