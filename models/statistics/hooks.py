"""The BatchNorm layers of a network by name, and hooks on their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

InputHook = Callable[[str, _BatchNorm, Tensor], None]
"""Called with the name of a BatchNorm, the layer, and its input (N, C, *size)."""


def named_batchnorms(network: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """Yield every BatchNorm with its name, in order of registration; a network that is one has its class as name."""
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            yield name or type(module).__name__, module


def has_running_statistics(batchnorm: _BatchNorm) -> bool:
    """Return whether a BatchNorm keeps running statistics (track_running_stats), with whatever values."""
    return batchnorm.running_mean is not None and batchnorm.running_var is not None


@contextmanager
def input_hooks(batchnorms: Iterable[tuple[str, _BatchNorm]], hook: InputHook) -> Iterator[None]:
    """Call `hook` before each call of these layers, until the block is left.

    Args:
        batchnorms: names and layers.
        hook: gets the input, whether it is passed by position or by name.
    """
    handles = [
        batchnorm.register_forward_pre_hook(
            lambda layer, args, kwargs, name=name: hook(name, layer, next(iter((*args, *kwargs.values())))),
            with_kwargs=True,
        )
        for name, batchnorm in batchnorms
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
