"""Stems: the convolution before the stages of an image network, with pooling for large images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from normfold.models.architectures.arg_checks import check_choice
from normfold.models.architectures.blocks import ConvBatchNorm

Stem = Literal["auto", "small", "large"]

MIN_LARGE_IMAGE = 64
"""Pixels along the shorter side from which `auto` is the large stem."""


def make_stem(input_shape: Sequence[int], width: int, stem: Stem) -> nn.Module:
    """Return a stem: (N, C, H, W) -> (N, width, H / s, W / s) with s of `stem_stride`.

    Args:
        input_shape: (channels, height, width) of one sample.
        width: output channels.
        stem: `small` is a 3 × 3 ConvBatchNorm; `large` is a 7 × 7 ConvBatchNorm of stride 2 and a 3 × 3 max pool of
            stride 2; `auto` is `large` for images of at least 64 pixels along the shorter side, otherwise `small`.

    Raises:
        ArchitectureError: unknown stem.
    """
    channels = input_shape[0]
    if stem_stride(input_shape, stem) == 1:
        return ConvBatchNorm(channels, width, 3)
    return nn.Sequential(ConvBatchNorm(channels, width, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1))


def stem_stride(input_shape: Sequence[int], stem: Stem) -> int:
    """Return the factor by which a stem reduces height and width: 1 or 4.

    Args:
        input_shape: (channels, height, width) of one sample.
        stem: see `make_stem`.

    Raises:
        ArchitectureError: unknown stem.
    """
    check_choice("stem", stem, ("auto", "small", "large"))
    if stem == "small" or (stem == "auto" and min(input_shape[1:]) < MIN_LARGE_IMAGE):
        return 1
    return 4
