"""From the names of a file to those of a network: what wrappers and training scripts put before them is removed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from normfold.models.errors import WeightsError

COUNTER = "num_batches_tracked"
"""BatchNorm's counter of batches, which has no effect in inference."""

COMPILED = "_orig_mod"
"""What torch.compile puts before the names of a network, also of one within another."""

AVERAGED = "n_averaged"
"""The counter of torch.optim.swa_utils.AveragedModel, beside the network's tensors."""


class Named(NamedTuple):
    """Tensors by the names of a network.

    Attributes:
        tensors: by name.
        prefix: that all of them had in the file; "" if none.
        left: names of tensors without that prefix.
    """

    tensors: dict[str, Tensor]
    prefix: str
    left: tuple[str, ...]


def fit_names(tensors: dict[str, Tensor], wanted: Collection[str], path: Path, prefix: str | None = None) -> Named:
    """Return tensors without what comes before the network's names.

    Args:
        tensors: by the names of a file.
        wanted: the network's names.
        path: of the file, for the error.
        prefix: to be removed; None for the one under which every name of the network is found, if there is one.

    Raises:
        WeightsError: no name has the prefix; or the network is found under several.
    """
    own = {_without_compiled(name): tensor for name, tensor in tensors.items()}
    needed = [name for name in wanted if not name.endswith(COUNTER)]
    if prefix is None:
        prefix = "" if all(name in own for name in needed) else _find_prefix(own, needed, path)
    elif not any(name.startswith(prefix) for name in own):
        raise WeightsError(path, f"has no tensor with the prefix {prefix!r}; its first is {next(iter(own))!r}.")
    if not prefix:
        return Named(own, "", ())
    inside = {name.removeprefix(prefix): tensor for name, tensor in own.items() if name.startswith(prefix)}
    outside = tuple(name for name in own if not name.startswith(prefix) and name != AVERAGED)
    return Named(inside, prefix, outside)


def _find_prefix(own: Collection[str], needed: list[str], path: Path) -> str:
    """Return the prefix under which every name of the network is found; "" if there is none.

    Raises:
        WeightsError: there are several.
    """
    if not needed:
        return ""
    ends = [name.removesuffix(needed[0]) for name in own if name.endswith("." + needed[0])]
    found = [prefix for prefix in ends if all(prefix + name in own for name in needed)]
    if len(found) > 1:
        names = ", ".join(map(repr, found))
        raise WeightsError(path, f"holds the network's tensors under several prefixes: {names}; choose `strip_prefix`.")
    return found[0] if found else _common_start(own)


def _common_start(own: Collection[str]) -> str:
    """Return `module.` if all names begin so: the file is of another network, and errors name its tensors better."""
    return "module." if own and all(name.startswith("module.") for name in own) else ""


def _without_compiled(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != COMPILED)
