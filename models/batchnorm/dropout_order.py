"""Find BatchNorm layers whose inputs come from a dropout without another BatchNorm in between.

Dropout raises the variance of its output in training, by up to 1 / (1 - p). A BatchNorm after it has that variance as
its running_var, and normalises by too much in inference, where dropout does nothing.

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

from normfold.models.statistics.hooks import input_hooks, named_batchnorms

DROPOUTS: frozenset[Callable[..., Any]] = frozenset(
    {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
)
"""The functions that torch's dropout layers call."""

DEFAULT_P = 0.5


class _DropoutMarks(TorchFunctionMode):
    """Adds a zero that requires a gradient to the output of every dropout, so that autograd finds where it goes.

    An addition saves no tensors for the backward pass.
    """

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
def dropout_before_batchnorms(network: nn.Module, example: Tensor) -> dict[str, float]:
    """Return the largest dropout probability p that reaches each BatchNorm, by its name.

    Args:
        network: in eval mode, where dropout does nothing; it runs once.
        example: a batch (N, *input_shape).

    Returns:
        Only layers that a dropout reaches.
    """
    found: dict[str, float] = {}
    dropouts = _DropoutMarks()

    def find_dropouts(name: str, _: _BatchNorm, x: Tensor) -> None:
        if dropouts.marks and x.requires_grad:
            marks = [mark for mark, _ in dropouts.marks]
            gradients: Sequence[Tensor | None] = torch.autograd.grad(
                x.sum(), marks, retain_graph=True, allow_unused=True
            )
            reached = [p for gradient, (_, p) in zip(gradients, dropouts.marks, strict=True) if gradient is not None]
            if reached:
                found[name] = max(found.get(name, 0.0), *reached)

    layers = list(named_batchnorms(network))
    # A detached output ends the search at the next BatchNorm.
    handles = [layer.register_forward_hook(lambda _module, _args, result: result.detach()) for _, layer in layers]
    try:
        with dropouts, input_hooks(layers, find_dropouts):
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return found
