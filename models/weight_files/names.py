"""From the names of a file to those of a network: what wrappers and training scripts put before them is removed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from normfold.models.errors import WeightsError
from normfold.models.weight_files.published_names import Names, published_names

COUNTER = "num_batches_tracked"
"""BatchNorm's counter of batches, which has no effect in inference."""

COMPILED = "_orig_mod"
"""What torch.compile puts before the names of a network, also of one within another."""

AVERAGED = "n_averaged"
"""The counter of torch.optim.swa_utils.AveragedModel, beside the network's tensors."""

_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
"""Names in torchvision's files of DenseNet, which are of a time when names could hold dots; its code renames them."""

_ENOUGH = 0.5
"""Share of a network's names that are found under a prefix where the whole network is not."""


class Named(NamedTuple):
    """Tensors by the names of a network.

    Attributes:
        tensors: by name.
        prefix: that all of them had in the file; "" if none.
        added: what was put before their names; "" if nothing.
        left: names of tensors without that prefix.
        published: whether the names are torchvision's, and the network has others.
    """

    tensors: dict[str, Tensor]
    prefix: str
    added: str
    left: tuple[str, ...]
    published: bool = False


def fit_names(
    tensors: dict[str, Tensor], wanted: Collection[str], path: Path, prefix: str | None = None, partial: bool = False
) -> Named:
    """Return tensors without what comes before the network's names.

    Args:
        tensors: by the names of a file.
        wanted: the network's names.
        path: of the file, for the error.
        prefix: to be removed; None for the one under which every name of the network is found, if there is one, or
            most of them.
        partial: put the network's own prefix before names that it has below one, as those of a backbone.

    Raises:
        WeightsError: no name has the prefix; or the network is found under several.
    """
    if published := _find_published(tensors, wanted):
        own_names = {name: own for own, name in published.items()}
        found = fit_names(tensors, own_names, path, prefix, partial)
        renamed = {own_names.get(name, name): tensor for name, tensor in found.tensors.items()}
        return found._replace(tensors=renamed, published=True)
    own = {_old_name(_without_compiled(name), wanted): tensor for name, tensor in tensors.items()}
    needed = [name for name in wanted if not name.endswith(COUNTER)]
    if prefix is None:
        prefix = "" if all(name in own for name in needed) else _find_prefix(own, needed, path)
    elif not any(name.startswith(prefix) for name in own):
        raise WeightsError(path, f"has no tensor with the prefix {prefix!r}; its first is {next(iter(own))!r}.")
    inside = {name.removeprefix(prefix): tensor for name, tensor in own.items() if name.startswith(prefix)}
    outside = tuple(name for name in own if prefix and not name.startswith(prefix) and name != AVERAGED)
    added = _find_added(inside, needed) if partial else ""
    if added:
        inside = {added + name: tensor for name, tensor in inside.items()}
    return Named(inside, prefix, added, outside)


def _find_published(names: Collection[str], wanted: Collection[str]) -> Names:
    """Return the published names of a network that comes with Normfold if a file has them; {} otherwise."""
    published = published_names(wanted)
    for own, name in published.items():  # the first, which is of the stem
        ends = [any(f".{one}".endswith(f".{end}") for one in names) for end in (own, name)]
        return published if ends == [False, True] else {}
    return {}


def _find_prefix(own: Collection[str], needed: list[str], path: Path) -> str:
    """Return the prefix under which every name of the network is found, or most of them; "" if there is none.

    Raises:
        WeightsError: there are several.
    """
    counts = _count_by_prefix(own, needed)
    found = [prefix for prefix, count in counts.items() if count == len(needed)]
    if len(found) > 1:
        names = ", ".join(map(repr, found))
        raise WeightsError(path, f"holds the network's tensors under several prefixes: {names}; choose `strip_prefix`.")
    if found:
        return found[0]
    best = _best(counts, len(needed), sum(name in own for name in needed))
    return best or _common_start(own)


def _find_added(own: Collection[str], needed: list[str]) -> str:
    """Return the network's prefix below which most names of a file are found; "" if there is none."""
    counts = _count_by_prefix(needed, [name for name in own if not name.endswith(COUNTER)])
    return _best(counts, len(own), sum(name in own for name in needed))


def _count_by_prefix(names: Collection[str], ends: Collection[str]) -> Counter[str]:
    """Return how many names are one of `ends` behind a prefix, by prefix."""
    wanted, counts = frozenset(ends), Counter[str]()
    for name in names:
        parts = name.split(".")
        counts.update(
            ".".join(parts[:start]) + "." for start in range(1, len(parts)) if ".".join(parts[start:]) in wanted
        )
    return counts


def _best(counts: Counter[str], names: int, without: int) -> str:
    """Return the one prefix of most names, if that is enough of them, and more than are found without it."""
    if not counts:
        return ""
    maximum = max(counts.values())
    best = [prefix for prefix, count in counts.items() if count == maximum]
    return best[0] if len(best) == 1 and maximum > without and maximum >= _ENOUGH * names else ""


def _common_start(own: Collection[str]) -> str:
    """Return `module.` if all names begin so: the file is of another network, and errors name its tensors better."""
    return "module." if own and all(name.startswith("module.") for name in own) else ""


def _without_compiled(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != COMPILED)


def _old_name(name: str, wanted: Collection[str]) -> str:
    """Return a name of torchvision's DenseNet as its code has it, unless the network itself has the old one."""
    return name if name in wanted else _OLD_DENSENET.sub(r"\1\2.", name)
