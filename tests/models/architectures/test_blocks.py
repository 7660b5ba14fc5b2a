"""Blocks against their formulas, computed in float64 by NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from normfold.models.architectures.blocks import (
    ConvBatchNorm,
    ConvTransposeBatchNorm,
    LinearBatchNorm,
    PreActivationConv,
    initialise,
)
from normfold.models.architectures.classifier import global_average, halving_strides, plan_blocks
from normfold.models.errors import ArchitectureError

Array = npt.NDArray[np.float64]


def channelwise(vector: torch.Tensor, ndim: int) -> Array:
    return vector.detach().numpy().reshape(1, -1, *(1,) * (ndim - 2))


def normalise(u: Array, mean: Array, var: Array, norm: nn.BatchNorm2d, epsilon: float = 1e-5) -> Array:
    scale, shift = channelwise(norm.weight, u.ndim), channelwise(norm.bias, u.ndim)
    return scale * (u - mean) / np.sqrt(var + epsilon) + shift


def make_block(kind: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(1)
    block: nn.Module
    if kind == "linear":
        block, x = LinearBatchNorm(5, 4, activation="none"), torch.randn(6, 5)
    elif kind.startswith("conv"):
        rank = int(kind[-1])
        block, x = ConvBatchNorm(2, 4, rank=rank, activation="none"), torch.randn(6, 2, *(5,) * rank)
    else:
        rank = int(kind[-1])
        block, x = ConvTransposeBatchNorm(2, 4, rank=rank, activation="none"), torch.randn(6, 2, *(3,) * rank)
    block.double()
    nn.init.uniform_(block.norm.weight, 0.5, 2)
    nn.init.normal_(block.norm.bias)
    nn.init.normal_(block.norm.running_mean)
    nn.init.uniform_(block.norm.running_var, 1e-5, 2)
    return block, x.double()


KINDS = ["linear", "conv1", "conv2", "conv3", "transposed1", "transposed2", "transposed3"]


@pytest.mark.parametrize("kind", KINDS)
def test_training_normalises_by_batch_mean_and_biased_variance(kind: str) -> None:
    block, x = make_block(kind)
    u = block.weight_layer(x).detach().numpy()
    axes = (0, *range(2, u.ndim))
    mean, var = u.mean(axes, keepdims=True), ((u - u.mean(axes, keepdims=True)) ** 2).mean(axes, keepdims=True)
    y = block.train()(x).detach().numpy()
    np.testing.assert_allclose(y, normalise(u, mean, var, block.norm), rtol=1e-10, atol=1e-12)
    count = u.size // u.shape[1]
    unbiased = normalise(u, mean, var * count / (count - 1), block.norm)
    assert not np.allclose(y, unbiased, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_running_statistics_move_a_tenth_towards_the_batch_with_unbiased_variance(kind: str) -> None:
    block, x = make_block(kind)
    mean_before, var_before = block.norm.running_mean.numpy().copy(), block.norm.running_var.numpy().copy()
    u = block.weight_layer(x).detach().numpy()
    axes = (0, *range(2, u.ndim))
    block.train()(x)
    np.testing.assert_allclose(block.norm.running_mean.numpy(), 0.9 * mean_before + 0.1 * u.mean(axes), rtol=1e-10)
    np.testing.assert_allclose(block.norm.running_var.numpy(), 0.9 * var_before + 0.1 * u.var(axes, ddof=1), rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_inference_normalises_by_running_statistics_and_leaves_them(kind: str) -> None:
    block, x = make_block(kind)
    u = block.weight_layer(x).detach().numpy()
    mean, var = channelwise(block.norm.running_mean, u.ndim), channelwise(block.norm.running_var, u.ndim)
    before = block.norm.running_mean.clone()
    y = block.eval()(x).detach().numpy()
    np.testing.assert_allclose(y, normalise(u, mean, var, block.norm), rtol=1e-10, atol=1e-12)
    assert torch.equal(before, block.norm.running_mean)
    wrong_epsilon = normalise(u, mean, var, block.norm, epsilon=1e-3)
    assert not np.allclose(y, wrong_epsilon, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_train_and_eval_differ(kind: str) -> None:
    block, x = make_block(kind)
    in_eval = block.eval()(x)
    assert not torch.allclose(block.train()(x), in_eval, rtol=1e-3, atol=1e-3)


def test_activation_follows_batchnorm() -> None:
    block = ConvBatchNorm(1, 2, activation="relu").eval()
    nn.init.constant_(block.norm.bias, -100.0)
    assert torch.equal(block(torch.randn(2, 1, 4, 4)), torch.zeros(2, 2, 4, 4))


@pytest.mark.parametrize(("size", "stride", "expected"), [(8, 1, 8), (8, 2, 4), (7, 2, 4)])
def test_conv_divides_the_size_by_its_stride_rounding_up(size: int, stride: int, expected: int) -> None:
    assert ConvBatchNorm(1, 3, 5, stride=stride)(torch.zeros(2, 1, size, size)).shape == (2, 3, expected, expected)


@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 2), (3, 5), (5, 3)])
def test_dilated_conv_is_centred_and_preserves_the_size(kernel_size: int, dilation: int) -> None:
    block = ConvBatchNorm(1, 1, kernel_size, rank=1, dilation=dilation, activation="none").eval()
    nn.init.ones_(block.weight_layer.weight)
    impulse = torch.zeros(1, 1, 31)
    impulse[0, 0, 15] = 1
    y = block(impulse)
    reach = kernel_size // 2
    taps = [15 + dilation * tap for tap in range(-reach, reach + 1)]
    assert y.shape == impulse.shape
    assert y[0, 0].nonzero().flatten().tolist() == taps


@pytest.mark.parametrize("stride", [1, 2])
def test_preactivated_conv_normalises_its_input(stride: int) -> None:
    torch.manual_seed(1)
    block = PreActivationConv(3, 4, 3, stride=stride).double().eval()
    nn.init.uniform_(block.norm.weight, 0.5, 2)
    nn.init.normal_(block.norm.bias)
    nn.init.normal_(block.norm.running_mean)
    nn.init.uniform_(block.norm.running_var, 1e-5, 2)
    x = torch.randn(2, 3, 6, 6).double()
    mean, var = channelwise(block.norm.running_mean, 4), channelwise(block.norm.running_var, 4)
    activated = torch.from_numpy(np.maximum(normalise(x.numpy(), mean, var, block.norm), 0))
    y = nn.functional.conv2d(activated, block.convolution.weight, stride=stride, padding=1)
    assert block.convolution.bias is None
    np.testing.assert_allclose(block(x).detach().numpy(), y.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_transposed_conv_enlarges_by_its_stride() -> None:
    assert ConvTransposeBatchNorm(1, 3, stride=3)(torch.zeros(2, 1, 4, 5)).shape == (2, 3, 12, 15)


def test_weight_layers_have_no_bias() -> None:
    blocks = (ConvBatchNorm(1, 2), ConvTransposeBatchNorm(1, 2), LinearBatchNorm(1, 2))
    assert all(block.weight_layer.bias is None for block in blocks)


def test_batch_of_one_row_raises_in_training() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        LinearBatchNorm(3, 2)(torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "swoosh"}, "Unknown activation 'swoosh'"),
        ({"rank": 4}, "1, 2 or 3 spatial axes; got 4"),
        ({"kernel_size": 2}, "must be odd, for a symmetric padding; got 2"),
    ],
)
def test_block_names_a_wrong_argument(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        ConvBatchNorm(1, 2, **arguments)


def test_initial_weights_have_the_variance_of_he_et_al() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3)
    initialise(conv)
    assert conv.weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.05)
    assert torch.count_nonzero(conv.bias) == 0


def test_global_average_is_the_mean_over_all_positions() -> None:
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert torch.equal(global_average(x), x.flatten(2).mean(2))


def test_block_plan_strides_in_the_first_block_of_a_stage() -> None:
    assert halving_strides(3, 4) == [4, 2, 2]
    assert list(plan_blocks([1, 2], [8, 16], [1, 2])) == [(0, 8, 1), (1, 16, 2), (1, 16, 1)]
    with pytest.raises(ValueError, match="shorter"):
        list(plan_blocks([1, 2], [8, 16], [1]))
