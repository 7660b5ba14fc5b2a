"""Files of torchvision and timm, for the networks that come with Normfold."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normfold.models.architectures.registry import Architecture, build
from normfold.models.errors import WeightsError, WeightsWarning
from normfold.models.weight_files.load import WeightsFile, load_weights
from normfold.models.weight_files.names import fit_names
from normfold.models.weight_files.published_names import published_names

pytestmark = pytest.mark.slow


def own_network(name: str, classes: int = 1000, **options: Any) -> nn.Module:
    return build(Architecture(name=name, options=options, input_shape=(3, 64, 64), classes=classes)).eval()


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("resnet18", "779447cf0a59dec805b4b6f442180ea9418f57a558a168774bd4ce61d31e1bee"),
        ("resnet34", "5aa6d4978ba3a10aabb321a68b1cb239a616bc1faa170818ca10dd0fc62f4767"),
        ("resnet50", "8f960d1d00758a98352af283a651a2e1bd18a5823592dc0c307b84c759beefcd"),
        ("mobilenet_v2", "398e13a521d3fbb9b8658ea6e7b02f47e7a3625a8991749ed1c2d25ae6571b5e"),
        ("densenet121", "366ea3ff24f18b7cc9996c31900a69ed5d2966aadbf7f96b444bce8a1825123e"),
    ],
)
def test_names_are_those_of_torchvision_in_its_order(name: str, digest: str) -> None:
    """The sha256 is of the names in the state dict of torchvision 0.29.1, one a line."""
    with torch.device("meta"):
        names = published_names(own_network(name).state_dict())
    assert hashlib.sha256("\n".join(names.values()).encode()).hexdigest() == digest


@pytest.mark.parametrize(
    ("name", "options"), [("convnet", {}), ("mlp", {}), ("preact_resnet", {"depths": [1], "widths": [4]})]
)
def test_other_networks_have_no_published_names(name: str, options: dict[str, Any]) -> None:
    assert published_names(own_network(name, **options).state_dict()) == {}
    assert published_names(["conv1.weight", "fc.weight"]) == {}


class Block(nn.Module):
    """BasicBlock of torchvision."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class ResNet(nn.Module):
    """ResNet of torchvision, with two stages."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Block(8, 8, 1), Block(8, 8, 1))
        self.layer2 = nn.Sequential(Block(8, 12, 2), Block(12, 12, 1))
        self.fc = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        logits: Tensor = self.fc(self.layer2(self.layer1(x)).mean((2, 3)))
        return logits


@pytest.fixture
def trained() -> ResNet:
    torch.manual_seed(0)
    network = ResNet(5)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, 3, 64, 64) * 2 + 1)
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


SMALL: dict[str, Any] = {"depths": [2, 2], "widths": [8, 12]}


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.filterwarnings("ignore:.*prefix:normfold.models.errors.WeightsWarning")
def test_resnet_of_torchvision_computes_the_same(tmp_path: Path, trained: ResNet, prefix: str) -> None:
    tensors = {prefix + name: value for name, value in trained.state_dict().items() if "tracked" not in name}
    torch.save(tensors, tmp_path / "w.pth")
    network = own_network("resnet", 5, **SMALL)
    with pytest.warns(WeightsWarning, match="names are those of torchvision"):
        load_weights(network, WeightsFile(tmp_path / "w.pth"))
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(x), trained(x))


def test_resnet_of_torchvision_with_another_head_or_stem(tmp_path: Path, trained: ResNet) -> None:
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    network = own_network("resnet", 3, **SMALL)
    with pytest.warns(WeightsWarning, match="names are those of torchvision"):
        found = load_weights(network, WeightsFile(tmp_path / "w.pth"), outputs=3)
    assert found.new == ("classifier.weight", "classifier.bias")
    small = own_network("resnet", 5, stem="small", **SMALL)
    with pytest.raises(WeightsError, match=r"tensor 'stem\.weight_layer\.weight' of shape \[8, 3, 7, 7\]"):
        load_weights(small, WeightsFile(tmp_path / "w.pth"), outputs=3)


def test_old_names_of_torchvisions_densenet_load() -> None:
    wanted = ["features.denseblock1.denselayer1.norm1.weight", "features.denseblock1.denselayer1.conv2.weight"]
    old = {name.replace("norm1", "norm.1").replace("conv2", "conv.2"): torch.zeros(1) for name in wanted}
    assert list(fit_names(old, wanted, Path("w.pth")).tensors) == wanted
    assert list(fit_names(old, list(old), Path("w.pth")).tensors) == list(old)
