from __future__ import annotations

import pytest
import torch
from torch import nn

from normfold.models.errors import DataError
from normfold.models.training.loop.memory_format import put_channels_last


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Conv2d(3, 4, 3), (3, 8, 8)), (nn.Conv3d(3, 4, 3), (3, 8, 8, 8))], ids=["images", "volumes"]
)
def test_channels_last_changes_the_format_and_not_the_values(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(2, *shape)
    expected = layer(x)
    put_channels_last(layer, shape)
    last = torch.channels_last if len(shape) == 3 else torch.channels_last_3d
    outputs = layer(x)
    assert layer.weight.is_contiguous(memory_format=last)
    assert outputs.is_contiguous(memory_format=last)
    assert torch.allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(13,), (2, 16)])
def test_channels_last_is_refused_for_other_samples(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"`channels_last` is for images and volumes; these samples have the shape \["):
        put_channels_last(nn.Linear(2, 2), shape)
