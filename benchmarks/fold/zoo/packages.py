"""How each package builds a network by its name, without weights that it would download."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree


class TensorOutputs(nn.Module):
    """A network that takes one tensor by position or by name, and returns the tensors of its output as a tuple."""

    def __init__(self, network: nn.Module, argument: str = "") -> None:
        super().__init__()
        self.network = network
        self.argument = argument

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Run the network."""
        output = self.network(**{self.argument: rows}) if self.argument else self.network(rows)
        leaves = _pytree.tree_leaves(dict(output) if isinstance(output, dict) else output)
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))


def timm_network(name: str, row: Sequence[int]) -> nn.Module:
    """Build a network of timm, for pictures of this size if it must know it."""
    import timm

    try:
        return TensorOutputs(timm.create_model(name, pretrained=False, img_size=row[-1]))
    except TypeError:
        return TensorOutputs(timm.create_model(name, pretrained=False))


def torchvision_network(name: str, _row: Sequence[int]) -> nn.Module:
    """Build a network of torchvision: a classifier, or one for segmentation or video."""
    from torchvision import models

    builder = models.get_model_builder(name)
    backbone = {"weights_backbone": None} if "weights_backbone" in inspect.signature(builder).parameters else {}
    return TensorOutputs(builder(weights=None, **backbone))


def pytorchcv_network(name: str, _row: Sequence[int]) -> nn.Module:
    """Build a network of pytorchcv."""
    from pytorchcv.model_provider import get_model

    return TensorOutputs(get_model(name, pretrained=False))


def transformers_network(name: str, row: Sequence[int]) -> nn.Module:
    """Build a network of transformers by the name of its class, in the size of its default configuration.

    Names may go on with values of the configuration: `PatchTSMixerForPrediction:norm_mlp=batchnorm`.
    """
    import transformers

    name, *given = name.split(":")
    network_class = getattr(transformers, name)
    values = dict(pair.split("=") for pair in given)
    config = network_class.config_class(
        **{key: int(value) if value.isdigit() else value for key, value in values.items()}
    )
    if hasattr(config, "image_size"):
        config.image_size = row[-1]
    return TensorOutputs(network_class(config), network_class.main_input_name)


BUILDERS: dict[str, Callable[[str, Sequence[int]], nn.Module]] = {
    "pytorchcv": pytorchcv_network,
    "timm": timm_network,
    "torchvision": torchvision_network,
    "transformers": transformers_network,
}


def build(package: str, name: str, row: Sequence[int], seed: int) -> nn.Module:
    """Build a network in eval mode, with the random weights that its package begins training with.

    Args:
        package: one of BUILDERS.
        name: in the package.
        row: shape of one row of its input.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    return BUILDERS[package](name, row).eval()
