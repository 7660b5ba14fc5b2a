"""What a user has to know of how a weights file was loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from normfold.models.weight_files.names import COUNTER, Named
from normfold.models.weight_files.state_dicts import Chosen

_SHOWN = 8
"""Names in a list of them, before the rest are counted."""


def notes_on_loading(
    network: nn.Module, chosen: Chosen, named: Named, unfitting: tuple[str, ...], new: list[str]
) -> Iterator[str]:
    """Yield sentences on what was chosen, converted or left out.

    Args:
        network: with the tensors loaded.
        chosen: state dict of the file.
        named: its tensors that were loaded.
        unfitting: names of tensors that were not, since the network has none of this name and shape.
        new: names of the network's tensors that it keeps as they were.
    """
    wanted = network.state_dict()
    if chosen.others:
        others = ", ".join(repr(key) if key else "the file itself" for key in chosen.others)
        yield f"{chosen.key!r} was loaded; there is also {others} (`weights_key`)."
    if named.published:
        yield "its names are those of torchvision, and were loaded as this network's."
    if named.prefix and named.prefix != "module.":
        yield f"names were loaded without their prefix {named.prefix!r}."
    if named.added:
        yield f"names were loaded with the prefix {named.added!r}, which they have in the network."
    if left := (*named.left, *unfitting):
        yield f"not loaded, since the network has no such tensor: {list_names(left)}."
    if new:
        taken = [name for name in wanted if name in named.tensors and not name.endswith(COUNTER)]
        total = len(taken) + len(new)
        yield f"{len(taken)} of {total} tensors were loaded: {list_names(taken)}."
        yield f"the network keeps its own {list_names(new)}."
    kinds = {tensor.dtype for name, tensor in named.tensors.items() if tensor.dtype != wanted[name].dtype}
    if kinds:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        yield f"tensors in {names} were converted to the network's {_name(wanted)}."


def _name(wanted: Mapping[str, Tensor]) -> str:
    dtype = next((tensor.dtype for tensor in wanted.values() if tensor.is_floating_point()), torch.float32)
    return str(dtype).removeprefix("torch.")


def list_names(names: Iterable[str]) -> str:
    """Return names as a sentence has them: the first few, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(map(repr, found[:_SHOWN])) + more
