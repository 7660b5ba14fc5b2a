"""Weights of convolutions with channels last in memory, which GPUs with tensor cores, and some CPUs, compute faster."""

from __future__ import annotations

import torch
from torch import nn

from normfold.models.errors import DataError

_FORMATS = {3: torch.channels_last, 4: torch.channels_last_3d}
"""Memory format by the axes of a sample: images (channels, height, width), volumes (channels, depth, height, width)."""


def put_channels_last(network: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Store a network's convolution weights with channels last; shapes and values stay.

    A convolution then computes with channels last whatever the format of its input, and its output has that format.

    Args:
        network: changed in place.
        input_shape: of one sample.

    Raises:
        DataError: samples are neither images nor volumes.
    """
    memory_format = _FORMATS.get(len(input_shape))
    if memory_format is None:
        raise DataError(f"`channels_last` is for images and volumes; these samples have the shape {list(input_shape)}.")
    network.to(memory_format=memory_format)  # type: ignore[call-overload]
