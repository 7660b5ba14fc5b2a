"""A plain convolutional network: stages of ConvNorm blocks, halved between, then a linear classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from normfold.models.architectures.arg_checks import check_dropout
from normfold.models.architectures.blocks import ConvNorm, global_average, initialise
from normfold.models.errors import ArchitectureError

MAX_POOLS: dict[int, type[nn.MaxPool1d] | type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {
    1: nn.MaxPool1d,
    2: nn.MaxPool2d,
    3: nn.MaxPool3d,
}


class ConvNet(nn.Module):
    """Stages of ConvNorm blocks with max pooling between them, global average, optional dropout, linear classifier.

    Dropout stands after the last BatchNorm (Li et al. 2019, arXiv:1801.05134).

    Shapes:
        x (N, channels, *size) -> logits (N, classes); any size that survives the pooling.
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
                layers.append(ConvNorm(channels, width, kernel_size, rank=rank, activation=activation))
                channels = width
        self.stages = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stages(x)  # (N, C, *size) -> (N, widths[-1], *size / 2^(stages - 1))
        pooled = global_average(features)  # (N, widths[-1])
        logits: Tensor = self.classifier(self.dropout(pooled))  # (N, classes)
        return logits


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
    """Build a plain convolutional network for signals, pictures or volumes.

    Args:
        input_shape: (channels, *size) with 1, 2 or 3 spatial axes.
        classes: number of logits.
        widths: channels of each stage; the size is halved between stages.
        blocks_per_stage: ConvNorm blocks in each stage.
        kernel_size: odd edge of every kernel.
        activation: a name in `models.architectures.blocks.ACTIVATIONS`.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: rows instead of pictures, a picture too small for the stages, or a wrong option.
    """
    rank = len(input_shape) - 1
    if rank not in MAX_POOLS:
        raise ArchitectureError(
            f"A convnet takes samples of shape (channels, *size) with 1 to 3 spatial axes, got {list(input_shape)}; "
            "for rows use mlp."
        )
    if not widths or blocks_per_stage < 1:
        raise ArchitectureError("A convnet needs at least one width and one block per stage.")
    smallest = 2 ** (len(widths) - 1)
    if min(input_shape[1:]) < smallest:
        raise ArchitectureError(
            f"{len(widths)} stages need a size of at least {smallest} along every axis, got {list(input_shape[1:])}; "
            "give fewer widths."
        )
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
