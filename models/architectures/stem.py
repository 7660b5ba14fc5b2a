"""What stands before the stages of a network for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from normfold.models.architectures.arg_checks import check_choice
from normfold.models.architectures.blocks import ConvNorm

Stem = Literal["auto", "small", "large"]

LARGE_PICTURE = 64
"""Pixels along the shorter side from which `auto` takes the large stem."""


def make_stem(input_shape: Sequence[int], width: int, stem: Stem) -> nn.Module:
    """Return the stem for pictures of shape (channels, height, width); it gives `width` channels.

    Args:
        input_shape: of one sample.
        width: channels that the first stage takes.
        stem: `small` is one 3 × 3 convolution; `large` a 7 × 7 of stride 2 and a max pool of stride 2, for pictures
            of 64 pixels and more; `auto` picks by the size.

    Raises:
        ArchitectureError: another stem.
    """
    channels = input_shape[0]
    if stem_stride(input_shape, stem) == 1:
        return ConvNorm(channels, width, 3)
    return nn.Sequential(ConvNorm(channels, width, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1))


def stem_stride(input_shape: Sequence[int], stem: Stem) -> int:
    """Return how many times smaller the stem makes a picture.

    Raises:
        ArchitectureError: another stem.
    """
    check_choice("stem", stem, ("auto", "small", "large"))
    if stem == "small" or (stem == "auto" and min(input_shape[1:]) < LARGE_PICTURE):
        return 1
    return 4
