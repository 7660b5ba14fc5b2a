"""Learning rates that fall from the head to the first layer, since what the first layers have learnt is general."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

SCALE = "lr_scale"
"""Key in a group of the optimizer: what the learning rate of a step is multiplied with."""


def parameter_groups(network: nn.Module, weight_decay: float, layer_decay: float | None) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups for an optimizer, from the last layer to the first.

    With L layers, counted from 0 in the order in which they are defined, and a factor F, layer l learns at
        lr_l = lr * F^(L - 1 - l)
    so that the last one, the head, learns at the whole rate. A layer here is a module with a parameter of at least two
    axes; BatchNorms, and other modules with vectors only, belong to the layer that is defined before them, or to the
    first. Layers without a gradient count.

    Source: Clark et al. 2020, arXiv:2003.10555, table 6; Howard & Ruder 2018, arXiv:1801.06146, section 3.2, with
    F = 1 / 2.6.

    Args:
        network: its trainable parameters are grouped.
        weight_decay: of parameters of two and more axes; those of one axis, as scale, shift and bias, have none.
        layer_decay: F; None for one rate.
    """
    trainable = {name: one for name, one in network.named_parameters() if one.requires_grad}
    depths = dict.fromkeys(trainable, 0) if layer_decay is None else dict(_depths(network))
    last = max(depths.values(), default=0)
    groups: list[dict[str, Any]] = []
    for depth in range(last, -1, -1):
        scale = {} if layer_decay is None else {SCALE: layer_decay ** (last - depth)}
        inside = [one for name, one in trainable.items() if depths[name] == depth]
        decayed = [one for one in inside if one.ndim > 1]
        undecayed = [one for one in inside if one.ndim <= 1]
        groups += [{"params": decayed, "weight_decay": weight_decay} | scale] if decayed else []
        groups += [{"params": undecayed, "weight_decay": 0.0} | scale] if undecayed else []
    return groups


def _depths(network: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield each parameter's name with the number of its layer."""
    layer = -1
    for path, module in network.named_modules():
        own = list(module.named_parameters(path, recurse=False))
        layer += any(parameter.ndim > 1 for _, parameter in own)
        yield from ((name, max(layer, 0)) for name, _ in own)
