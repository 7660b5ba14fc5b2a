"""The head of a network: the layers that make its outputs, which differ in size from those of another data set."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd


def find_other_heads(network: nn.Module, tensors: Mapping[str, Tensor], outputs: int) -> tuple[str, ...]:
    """Return the names of the tensors that belong to heads of another size; () if any other tensor differs in shape.

    A head is a layer, not a BatchNorm, that has `outputs` outputs where the file's has another number, and inputs of
    the same size. An inner layer of another width is none, since the layer after it has inputs of another size.

    Args:
        network: any network.
        tensors: by its names.
        outputs: classes, or values, that the network returns for a sample.
    """
    wanted, layers = network.state_dict(), dict(network.named_modules())
    different = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name].shape]
    are_heads = all(
        _is_of_head(layers.get(name.rpartition(".")[0]), name, wanted[name], tensors[name], outputs)
        for name in different
    )
    return tuple(different) if are_heads else ()


def _is_of_head(layer: nn.Module | None, name: str, own: Tensor, given: Tensor, outputs: int) -> bool:
    axis = 1 if isinstance(layer, _ConvTransposeNd) and name.endswith(".weight") else 0
    if (
        layer is None
        or isinstance(layer, _NormBase)
        or own.ndim != given.ndim
        or own.ndim <= axis
        or own.shape[axis] != outputs
    ):
        return False
    return all(own.shape[other] == given.shape[other] for other in range(own.ndim) if other != axis)
