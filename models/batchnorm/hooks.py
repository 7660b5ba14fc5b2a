"""The BatchNorm layers of any network by name, and what each is given while the network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def named_norms(network: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """Yield every BatchNorm once, in the order of registration; a network that is one goes by its class."""
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            yield name or type(module).__name__, module


def keeps_statistics(norm: _BatchNorm) -> bool:
    """Whether a BatchNorm has running statistics, set or not."""
    return norm.running_mean is not None and norm.running_var is not None


@contextmanager
def looking_at(
    norms: Iterable[tuple[str, _BatchNorm]], look: Callable[[str, _BatchNorm, Tensor], None]
) -> Iterator[None]:
    """Call `look` with the name, the layer and its input before each call of these layers, however it is passed."""
    handles = [
        norm.register_forward_pre_hook(
            lambda layer, args, kwargs, name=name: look(name, layer, next(iter((*args, *kwargs.values())))),
            with_kwargs=True,
        )
        for name, norm in norms
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
