"""The state dict in a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from normfold.models.errors import WeightsError
from normfold.models.weight_files.state_dicts import choose_state_dict
from normfold.models.weight_files.torch_file import read_torch_file

PATH = Path("w.pt")


class Network(nn.Module):
    """A network of a user."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)


@pytest.mark.parametrize("nested", [False, True])
def test_whole_network_is_rejected_with_the_way_out(tmp_path: Path, nested: bool) -> None:
    torch.save({"epoch": 1, "model": Network()} if nested else Network(), tmp_path / "w.pt")
    content = read_torch_file(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"holds a whole network of torch.save.*network\.state_dict\(\), OTHER"):
        choose_state_dict(content, PATH)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds no state dict, which maps names to tensors."),
        ({"epoch": 3, "lr": 0.1}, "holds no state dict, which maps names to tensors; it has 'epoch', 'lr'."),
        ({}, "holds no state dict"),
        ({0: torch.zeros(2)}, "holds no state dict"),
    ],
)
def test_file_without_a_state_dict_says_what_it_has(content: object, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        choose_state_dict(content, PATH)


def test_extra_state_of_a_layer_is_no_obstacle() -> None:
    found = choose_state_dict({"w": torch.zeros(2), "norm._extra_state": None}, PATH)
    assert set(found.tensors) == {"w"}
