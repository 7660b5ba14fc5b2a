"""Layers of a network: a weight layer, BatchNorm and an activation, in this order or pre-activated.

The weight layer has no bias, since the `shift` of the BatchNorm after it takes the bias's place. In inference a
BatchNorm is an affine per channel; right after a linear layer it folds into that layer's weights (Ioffe & Szegedy 2015,
arXiv:1502.03167, section 3.1). Pre-activated layers are for the architectures that were published with them.
"""

from __future__ import annotations

from torch import Tensor, nn

from normfold.models.errors import ArchitectureError

EPSILON = 1e-5
"""Added to the variance, inside the root."""

MOMENTUM = 0.1
"""Weight of the new batch in the running statistics, as torch has it; ONNX's `momentum` is the weight of the old."""

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

    Args:
        name: a key of ACTIVATIONS.

    Raises:
        ArchitectureError: unknown name.
    """
    if name not in ACTIVATIONS:
        raise ArchitectureError(f"Unknown activation {name!r}; choose from {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


class _WeightBatchNormActivation(nn.Module):
    """activation(norm(weight_layer(x))), with the three layers as attributes."""

    weight_layer: nn.Module
    norm: nn.Module
    activation: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.activation(self.norm(self.weight_layer(x)))
        return activated


class ConvBatchNorm(_WeightBatchNormActivation):
    """Convolution without bias, BatchNorm over the channels, activation.

    With u = Conv(x), and for each channel c its mean and variance:
        y = activation(scale_c * (u - mean_c) / sqrt(var_c + epsilon) + shift_c)

    In training, mean and variance are those of u over the batch and all positions, the variance biased (divided by the
    count), and the running statistics move towards them, the variance unbiased (divided by the count - 1):
        running <- (1 - momentum) * running + momentum * batch          momentum = 0.1 weights the new batch
    In inference, mean and variance are the running statistics.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.

    Shapes:
        x (N, channels_in, *size) -> y (N, channels_out, *ceil(size / stride)); `size` has `rank` axes.

    Args:
        channels_in: channels of x.
        channels_out: channels of y.
        kernel_size: size of the kernel along every axis; odd, so that the padding is symmetric.
        rank: number of spatial axes: 1, 2 or 3.
        stride: along every axis.
        groups: groups of channels, as in torch; channels_in for a depthwise convolution.
        dilation: distance between the taps of the kernel, along every axis.
        activation: a key of ACTIVATIONS.

    Raises:
        ArchitectureError: unknown activation or rank, or an even kernel_size.
        ValueError: raised by torch in training, if the batch has one value per channel.
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
            raise ArchitectureError(f"The kernel size must be odd, for a symmetric padding; got {kernel_size}.")
        padding = dilation * (kernel_size // 2)
        self.weight_layer = CONVOLUTIONS[rank](
            channels_in, channels_out, kernel_size, stride, padding, dilation, groups, bias=False
        )
        self.norm = BATCH_NORMS[rank](channels_out, eps=EPSILON, momentum=MOMENTUM)
        self.activation = make_activation(activation)


class ConvTransposeBatchNorm(_WeightBatchNormActivation):
    """Transposed convolution without bias that enlarges by `stride`, BatchNorm over the channels, activation.

    The formula is that of ConvBatchNorm with u = ConvTranspose(x). The kernel is as large as the stride, so that no
    output position is covered twice.

    Shapes:
        x (N, channels_in, *size) -> y (N, channels_out, *(size * stride)); `size` has `rank` axes.

    Args:
        channels_in: channels of x.
        channels_out: channels of y.
        rank: number of spatial axes: 1, 2 or 3.
        stride: along every axis, and size of the kernel.
        activation: a key of ACTIVATIONS.

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


class LinearBatchNorm(_WeightBatchNormActivation):
    """Linear layer without bias, BatchNorm over its features, activation.

    The formula is that of ConvBatchNorm with u = W x, and a mean and variance for each feature.

    Shapes:
        x (N, features_in) -> y (N, features_out).

    Args:
        features_in: features of x.
        features_out: features of y.
        activation: a key of ACTIVATIONS.

    Raises:
        ArchitectureError: unknown activation.
        ValueError: raised by torch in training for a batch of one row, whose variance is 0.
    """

    def __init__(self, features_in: int, features_out: int, *, activation: str = "relu") -> None:
        super().__init__()
        self.weight_layer = nn.Linear(features_in, features_out, bias=False)
        self.norm = nn.BatchNorm1d(features_out, eps=EPSILON, momentum=MOMENTUM)
        self.activation = make_activation(activation)


class BatchNormActivation(nn.Module):
    """BatchNorm over the channels of an image, then an activation: y = activation(norm(x)).

    Shapes:
        x (N, channels, H, W) -> y (N, channels, H, W).

    Args:
        channels: channels of x and y.
        activation: a key of ACTIVATIONS.

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


class PreActivationConv(BatchNormActivation):
    """BatchNorm, activation, then a convolution without bias: y = Conv(activation(norm(x))).

    The activation is between this BatchNorm and its convolution, and x often has other readers: the BatchNorm folds
    only where a linear layer comes right before it.

    Source: He et al. 2016, arXiv:1603.05027, figure 4e.

    Shapes:
        x (N, channels_in, H, W) -> y (N, channels_out, ceil(H / stride), ceil(W / stride)).

    Args:
        channels_in: channels of x.
        channels_out: channels of y.
        kernel_size: size of the kernel along both axes; odd.
        stride: along both axes.
        activation: a key of ACTIVATIONS.

    Raises:
        ArchitectureError: unknown activation.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int, *, stride: int = 1, activation: str = "relu"
    ) -> None:
        super().__init__(channels_in, activation=activation)
        self.convolution = conv2d_without_bias(channels_in, channels_out, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.convolution(super().forward(x))
        return convolved


def conv2d_without_bias(channels_in: int, channels_out: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """Return a Conv2d without bias, padded by half of an odd kernel, so that only `stride` reduces the size."""
    return nn.Conv2d(channels_in, channels_out, kernel_size, stride, padding=kernel_size // 2, bias=False)


def initialise(network: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers from He's normal distribution, and set biases to 0.

    With fan_in the number of inputs of an output value:
        weight ~ N(0, 2 / fan_in)

    BatchNorm keeps torch's start: scale 1, shift 0, running_mean 0 and running_var 1.

    Source: He et al. 2015, arXiv:1502.01852, equation 10.
    """
    for module in network.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _check_rank(rank: int) -> None:
    if rank not in CONVOLUTIONS:
        raise ArchitectureError(f"A convolution has 1, 2 or 3 spatial axes; got {rank}.")
