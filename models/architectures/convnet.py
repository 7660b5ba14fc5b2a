"""A plain convolutional network: stages of ConvBatchNorm layers with max pooling between them, and a linear classifier.

The layout is VGG's (Simonyan & Zisserman 2015, arXiv:1409.1556), with BatchNorm and global average pooling.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from normfold.models.architectures.arg_checks import check_dropout, check_min_size
from normfold.models.architectures.blocks import ConvBatchNorm
from normfold.models.architectures.classifier import PooledClassifier
from normfold.models.errors import ArchitectureError

MAX_POOLS: dict[int, type[nn.MaxPool1d] | type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {
    1: nn.MaxPool1d,
    2: nn.MaxPool2d,
    3: nn.MaxPool3d,
}


class ConvNet(PooledClassifier):
    """Stages of ConvBatchNorm layers with max pooling between them, then the head of PooledClassifier.

    Shapes:
        x (N, channels, *size) -> logits (N, classes); every axis at least 2^(stages - 1) long.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        rank: int,
        widths: Sequence[int],
        blocks_per_stage: int,
        kernel_size: int,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage, width in enumerate(widths):
            if stage > 0:
                layers.append(MAX_POOLS[rank](2))
            for _ in range(blocks_per_stage):
                layers.append(ConvBatchNorm(channels, width, kernel_size, rank=rank, activation=activation))
                channels = width
        self.stages = nn.Sequential(*layers)
        self.add_head(channels, classes, dropout)

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.stages(x)  # (N, C, *size) -> (N, widths[-1], *size / 2^(stages - 1))
        return features


def convnet(
    input_shape: Sequence[int],
    classes: int,
    *,
    widths: Sequence[int] = (32, 64),
    blocks_per_stage: int = 2,
    kernel_size: int = 3,
    activation: str = "relu",
    dropout: float = 0.0,
) -> ConvNet:
    """Build a plain convolutional network for signals, images or volumes.

    Args:
        input_shape: (channels, *size) with 1, 2 or 3 spatial axes.
        classes: number of logits.
        widths: channels of each stage; the size is halved between stages.
        blocks_per_stage: ConvBatchNorm layers in each stage.
        kernel_size: size of every kernel along every axis; odd.
        activation: a key of `normfold.models.architectures.blocks.ACTIVATIONS`.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: samples without a spatial axis, a size too small for the stages, or a wrong option.
    """
    rank = len(input_shape) - 1
    if rank not in MAX_POOLS:
        raise ArchitectureError(
            f"A convnet takes samples of shape (channels, *size) with 1 to 3 spatial axes, got {list(input_shape)}; "
            "use mlp for table rows."
        )
    if not widths or blocks_per_stage < 1:
        raise ArchitectureError("A convnet needs at least one width and one block per stage.")
    check_min_size(input_shape, 2 ** (len(widths) - 1), f"{len(widths)} stages", "widths")
    check_dropout(dropout)
    return ConvNet(
        input_shape[0],
        classes,
        rank=rank,
        widths=widths,
        blocks_per_stage=blocks_per_stage,
        kernel_size=kernel_size,
        activation=activation,
        dropout=dropout,
    )
