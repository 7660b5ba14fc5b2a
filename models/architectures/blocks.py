"""Blocks of a network: a weight layer, BatchNorm, and an activation, in this order.

The order matters twice. The weight layer needs no bias, since the shift follows; and in inference the normalisation
is a channel-wise affine right behind a linear layer, so that it folds away (Ioffe & Szegedy 2015, section 3.1). Blocks
of the other order, pre-activation, are for the networks that were published so.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from normfold.models.errors import ArchitectureError

Rank = Literal[1, 2, 3]

EPSILON = 1e-5
"""Added to the variance, inside the root."""

MOMENTUM = 0.1
"""Weight of the new batch in the running statistics: torch's convention; ONNX weights the old ones."""

CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
TRANSPOSED_CONVOLUTIONS: dict[int, type[nn.ConvTranspose1d] | type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
BATCH_NORMS: dict[int, type[nn.BatchNorm1d] | type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "none": nn.Identity,
}


def make_activation(name: str) -> nn.Module:
    """Return a new activation by its name.

    Raises:
        ArchitectureError: no such activation.
    """
    if name not in ACTIVATIONS:
        raise ArchitectureError(f"Unknown activation {name!r}; there are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


class _WeightNormActivation(nn.Module):
    """activation(norm(weight(x))), with the three layers as attributes."""

    weight_layer: nn.Module
    norm: nn.Module
    activation: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.activation(self.norm(self.weight_layer(x)))
        return normalised


class ConvNorm(_WeightNormActivation):
    """Convolution without bias, BatchNorm over the channels, activation.

    With u = Conv(x), and per channel c a mean and variance:
        y = activation(scale_c * (u - mean_c) / sqrt(var_c + epsilon) + shift_c)

    Training takes the mean and the biased variance (divided by the count) of u over the batch and all positions, and
    moves the running statistics towards them, the variance unbiased (divided by the count - 1):
        running <- (1 - momentum) * running + momentum * batch          momentum = 0.1 weights the new batch
    Inference takes the running statistics.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.

    Args:
        channels_in: channels of x.
        channels_out: channels of y.
        kernel_size: edge of the kernel, the same along every axis; odd, so that `same` padding is symmetric.
        rank: spatial axes: 1, 2 or 3.
        stride: along every axis.
        groups: as in torch: channels_in for a depthwise convolution.
        dilation: distance between taps of the kernel, along every axis.
        activation: a name in ACTIVATIONS.

    Shapes:
        x (N, channels_in, *size) -> y (N, channels_out, *ceil(size / stride)), `size` having `rank` axes.

    Raises:
        ArchitectureError: unknown activation or rank, or an even kernel_size.
        ValueError: from torch, in training, if the batch leaves one value per channel.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int = 3,
        *,
        rank: int = 2,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        _check_rank(rank)
        if kernel_size % 2 == 0:
            raise ArchitectureError(f"A kernel size must be odd here, to keep the centre; got {kernel_size}.")
        padding = dilation * (kernel_size // 2)
        self.weight_layer = CONVOLUTIONS[rank](
            channels_in, channels_out, kernel_size, stride, padding, dilation, groups, bias=False
        )
        self.norm = BATCH_NORMS[rank](channels_out, eps=EPSILON, momentum=MOMENTUM)
        self.activation = make_activation(activation)


class ConvTransposeNorm(_WeightNormActivation):
    """Transposed convolution that enlarges by `stride`, without bias; BatchNorm; activation.

    Formula as for ConvNorm. The kernel is as large as the stride, so that no output position is covered twice.

    Shapes:
        x (N, channels_in, *size) -> y (N, channels_out, *(size * stride)).

    Raises:
        ArchitectureError: unknown activation or rank.
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, rank: int = 2, stride: int = 2, activation: str = "relu"
    ) -> None:
        super().__init__()
        _check_rank(rank)
        self.weight_layer = TRANSPOSED_CONVOLUTIONS[rank](channels_in, channels_out, stride, stride, bias=False)
        self.norm = BATCH_NORMS[rank](channels_out, eps=EPSILON, momentum=MOMENTUM)
        self.activation = make_activation(activation)


class LinearNorm(_WeightNormActivation):
    """Linear layer without bias, BatchNorm over its features, activation.

    Formula as for ConvNorm, with u = W x and one statistic per feature.

    Shapes:
        x (N, features_in) -> y (N, features_out).

    Raises:
        ArchitectureError: unknown activation.
        ValueError: from torch, in training, for a batch of one row, whose variance is 0.
    """

    def __init__(self, features_in: int, features_out: int, *, activation: str = "relu") -> None:
        super().__init__()
        self.weight_layer = nn.Linear(features_in, features_out, bias=False)
        self.norm = nn.BatchNorm1d(features_out, eps=EPSILON, momentum=MOMENTUM)
        self.activation = make_activation(activation)


class NormActivation(nn.Module):
    """BatchNorm over the channels of a picture, then the activation.

    Shapes:
        x (N, channels, H, W) -> the same.

    Raises:
        ArchitectureError: unknown activation.
    """

    def __init__(self, channels: int, *, activation: str = "relu") -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=EPSILON, momentum=MOMENTUM)
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.activation(self.norm(x))
        return activated


class NormConv(NormActivation):
    """Pre-activation: BatchNorm, activation, and then the convolution, without bias.

    What this BatchNorm normalises is often read by others too, and the activation stands between it and its own
    convolution: where no linear layer comes right before it, it cannot fold.

    Source: He et al. 2016, arXiv:1603.05027, figure 4e.

    Args:
        channels_in: channels of x.
        channels_out: channels of y.
        kernel_size: edge of the kernel; odd.
        stride: along both axes.
        activation: a name in ACTIVATIONS.

    Shapes:
        x (N, channels_in, H, W) -> y (N, channels_out, ceil(H / stride), ceil(W / stride)).

    Raises:
        ArchitectureError: unknown activation.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int, *, stride: int = 1, activation: str = "relu"
    ) -> None:
        super().__init__(channels_in, activation=activation)
        self.convolution = plain_convolution(channels_in, channels_out, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.convolution(super().forward(x))
        return convolved


def plain_convolution(channels_in: int, channels_out: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution of pictures without bias, padded as ConvNorm's is."""
    return nn.Conv2d(channels_in, channels_out, kernel_size, stride, padding=kernel_size // 2, bias=False)


def initialise(network: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers from He's normal distribution; biases become 0.

    Source: He et al. 2015, arXiv:1502.01852. BatchNorm keeps torch's start: scale 1, shift 0, running mean 0 and
    variance 1.
    """
    for module in network.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def global_average(x: Tensor) -> Tensor:
    """Average over every spatial axis: (N, C, *size) -> (N, C)."""
    return torch.mean(x, dim=tuple(range(2, x.ndim)))


def _check_rank(rank: int) -> None:
    if rank not in CONVOLUTIONS:
        raise ArchitectureError(f"A convolution has 1, 2 or 3 spatial axes; got {rank}.")
