"""Names in torchvision's and timm's files of the networks that come with Normfold too, under names of its own.

ResNet (also of timm), DenseNet (also of timm) and MobileNetV2: the same layers in the same order, so that the published
weights compute the same function here. Shapes are compared when the tensors are loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import groupby

Names = Mapping[str, str]
"""Published name of a tensor by the network's own."""

_BLOCK = re.compile(r"stages\.(\d+)\.(residual|shortcut)\.(?:(\d+)\.)?(weight_layer|norm)\.(\w+)")
_DENSE = re.compile(r"blocks\.(\d+)\.(?:layers\.(\d+)\.)?(norm|convolution)\.(\w+)")
_STEM = re.compile(r"stem\.(?:0\.)?(weight_layer|norm)\.(\w+)")


def published_names(own: Collection[str]) -> Names:
    """Return the names that torchvision has for a network of `normfold.models.architectures`; {} for any other.

    Args:
        own: names of the network's tensors, in the order in which its layers are defined.
    """
    for find in (_resnet, _mobilenet, _densenet):
        names = find(list(own))
        if names.keys() == set(own):
            return {name: names[name] for name in own}
    return {}


def _resnet(own: list[str]) -> dict[str, str]:
    """A block with a shortcut begins a stage: there the shape changes; the first stage may begin without one."""
    names: dict[str, str] = {}
    widened = {found[1] for name in own if (found := _BLOCK.fullmatch(name)) and found[2] == "shortcut"}
    stage, first = 0, 0
    for block, inside in groupby((name for name in own if _BLOCK.fullmatch(name)), lambda name: name.split(".")[1]):
        if block == "0" or block in widened:
            stage, first = stage + 1, int(block)
        for name in inside:
            _, part, index, layer, tensor = _groups(_BLOCK, name)
            kind = {"weight_layer": "conv", "norm": "bn"}[layer] + str(int(index or 0) + 1)
            if part == "shortcut":
                kind = f"downsample.{int(layer == 'norm')}"
            names[name] = f"layer{stage}.{int(block) - first}.{kind}.{tensor}"
    for name in own:
        if found := _STEM.fullmatch(name):
            names[name] = f"{'conv1' if found[1] == 'weight_layer' else 'bn1'}.{found[2]}"
    return names | _head(own, "fc")


def _mobilenet(own: list[str]) -> dict[str, str]:
    """In a block the last convolution and its BatchNorm are two layers, the others are pairs."""
    names, last = dict[str, str](), 0
    for block, grouped in groupby((name for name in own if _BLOCK.fullmatch(name)), lambda name: name.split(".")[1]):
        inside, last = list(grouped), int(block) + 1
        layers = 1 + max(int(_groups(_BLOCK, name)[2] or 0) for name in inside)
        for name in inside:
            _, _, index, layer, tensor = _groups(_BLOCK, name)
            pair, second = int(index or 0), int(layer == "norm")
            place = f"{pair}.{second}" if pair < layers - 1 else str(pair + second)
            names[name] = f"features.{last}.conv.{place}.{tensor}"
    for name in own:
        if found := re.fullmatch(r"(stem|head)\.(weight_layer|norm)\.(\w+)", name):
            number = 0 if found[1] == "stem" else last + 1
            names[name] = f"features.{number}.{int(found[2] == 'norm')}.{found[3]}"
    return names | _head(own, "classifier.1")


def _densenet(own: list[str]) -> dict[str, str]:
    """A block without inner layers is a transition, which ends a dense block."""
    names: dict[str, str] = {}
    dense, layer = 1, 0
    inner = (name for name in own if _DENSE.fullmatch(name))
    for _, grouped in groupby(inner, lambda name: name.split(".")[1]):
        inside = list(grouped)
        transition = _groups(_DENSE, inside[0])[1] is None
        layer += not transition
        for name in inside:
            _, index, kind, tensor = _groups(_DENSE, name)
            kind = "conv" if kind == "convolution" else kind
            place = f"transition{dense}.{kind}"
            if not transition:
                place = f"denseblock{dense}.denselayer{layer}.{kind}{int(index or 0) + 1}"
            names[name] = f"features.{place}.{tensor}"
        if transition:
            dense, layer = dense + 1, 0
    for name in own:
        if found := _STEM.fullmatch(name):
            names[name] = f"features.{'conv0' if found[1] == 'weight_layer' else 'norm0'}.{found[2]}"
        elif name.startswith("last.norm."):
            names[name] = f"features.norm5.{name.rpartition('.')[2]}"
    return names | _head(own, "classifier")


def _head(own: list[str], published: str) -> dict[str, str]:
    return {name: name.replace("classifier", published, 1) for name in own if name.startswith("classifier.")}


def _groups(pattern: re.Pattern[str], name: str) -> tuple[str, ...]:
    found = pattern.fullmatch(name)
    assert found is not None
    return found.groups()
