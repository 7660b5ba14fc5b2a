"""Which BatchNorm layers get values that went through a dropout, with no BatchNorm in between.

Such a layer takes its running variance from values with dropout, which is larger than that in inference, without.

Source: Li et al. 2019, Understanding the disharmony between dropout and batch normalization, arXiv:1801.05134.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from normfold.models.batchnorm.hooks import looking_at, named_norms

DROPOUTS: frozenset[Callable[..., Any]] = frozenset(
    {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
)
"""What layers and functions of that name come down to."""

DEFAULT_P = 0.5


class _Marks(TorchFunctionMode):
    """Adds a 0 of its own to what a dropout returns, so that autograd tells where it goes; an Add keeps no tensors."""

    def __init__(self) -> None:
        self.marks: list[tuple[Tensor, float]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        p = kwargs.get("p", args[1] if len(args) > 1 else DEFAULT_P) if func in DROPOUTS else 0.0
        if not 0 < p < 1 or not result.is_floating_point():
            return result
        mark = torch.zeros((), dtype=result.dtype, requires_grad=True)
        self.marks.append((mark, float(p)))
        return result + mark


@torch.enable_grad()
def dropout_before_norms(network: nn.Module, example: Tensor) -> dict[str, float]:
    """Return the largest p of the dropouts whose results reach each BatchNorm, by its name, where there are any.

    Args:
        network: in eval mode, where dropout does nothing; it is run once.
        example: a batch that it takes.
    """
    found: dict[str, float] = {}
    marking = _Marks()

    def look(name: str, _: _BatchNorm, x: Tensor) -> None:
        if marking.marks and x.requires_grad:
            marks = [mark for mark, _ in marking.marks]
            gradients: Sequence[Tensor | None] = torch.autograd.grad(
                x.sum(), marks, retain_graph=True, allow_unused=True
            )
            reached = [p for gradient, (_, p) in zip(gradients, marking.marks, strict=True) if gradient is not None]
            if reached:
                found[name] = max(found.get(name, 0.0), *reached)

    norms = list(named_norms(network))
    handles = [norm.register_forward_hook(lambda _module, _args, result: result.detach()) for _, norm in norms]
    try:
        with marking, looking_at(norms, look):
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return found
