"""Layers that training leaves as they are: those that a factory returns frozen, and BatchNorm by choice.

A pretrained network is often fine-tuned with its statistics as they are, since small batches would spoil them.
`nn.Module.train()` puts every layer into train mode, where BatchNorm changes its statistics even if its scale and shift
have no gradient. So frozen layers are put back into eval mode each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.models.errors import ArchitectureError


def freeze_batchnorms(network: nn.Module, pattern: str) -> None:
    """Put BatchNorm layers into eval mode, and let their scale and shift have no gradient.

    Args:
        network: as built.
        pattern: of names of layers, with * for any text; * alone for all of them.

    Raises:
        ArchitectureError: no BatchNorm has such a name.
    """
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, _BatchNorm)}
    chosen = [layer for name, layer in layers.items() if fnmatchcase(name, pattern)]
    if not chosen:
        names = ", ".join(map(repr, [*layers][:3])) or "none at all"
        raise ArchitectureError(f"No BatchNorm has a name like {pattern!r}; the network has {names}, for example.")
    for layer in chosen:
        layer.eval().requires_grad_(False)


def frozen_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that are to stay in eval mode, by name.

    These are the layers in eval mode of a network in train mode. Of a network that is in eval mode itself, as a loader
    of pretrained weights may return it, they are the BatchNorms whose scale and shift have no gradient.
    """
    layers = {name: layer for name, layer in network.named_modules() if name and not layer.training}
    if network.training:
        return layers
    return {name: layer for name, layer in layers.items() if _is_frozen(layer)}


def frozen_batchnorms(layers: dict[str, nn.Module]) -> tuple[str, ...]:
    """Return the names of the BatchNorms among frozen layers."""
    return tuple(name for name, layer in layers.items() if isinstance(layer, _BatchNorm))


def put_into_train_mode(network: nn.Module, frozen: Iterable[nn.Module]) -> None:
    """Put a network into train mode, and its frozen layers into eval mode."""
    network.train()
    for layer in frozen:
        layer.training = False


def _is_frozen(layer: nn.Module) -> bool:
    parameters = [*layer.parameters(recurse=False)]
    return isinstance(layer, _BatchNorm) and bool(parameters) and not any(one.requires_grad for one in parameters)
