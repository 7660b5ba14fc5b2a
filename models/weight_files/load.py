"""Load a weights file into a network."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from normfold.models.errors import WeightsError, WeightsWarning
from normfold.models.weight_files.names import COUNTER, Named, fit_names
from normfold.models.weight_files.safetensors_file import INDEX_SUFFIX, read_safetensors, read_sharded_safetensors
from normfold.models.weight_files.state_dicts import Chosen, choose_state_dict
from normfold.models.weight_files.torch_file import read_torch_file

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
SUFFIXES = f".safetensors, {INDEX_SUFFIX}, {', '.join(TORCH_SUFFIXES[:-1])} or .pth{TORCH_SUFFIXES[-1]}"

_SHOWN = 5
"""Names in a list of them, before the rest are counted."""


@dataclass(frozen=True)
class WeightsFile:
    """A weights file, and how it is to be read.

    Attributes:
        path: of the file.
        key: of the state dict in it, such as "state_dict_ema"; None for a usual one, or the only one.
        prefix: before the network's names; None for the one under which the whole network is found.
        partial: load the tensors that fit, and leave the others as they are.
    """

    path: Path
    key: str | None = None
    prefix: str | None = None
    partial: bool = False


def load_weights(network: nn.Module, file: WeightsFile) -> None:
    """Load every tensor of a network from a file of safetensors or of torch.save.

    A torch file is read with weights_only=True: no code of it runs, and objects of unknown classes are ignored. It may
    be a state dict, or a checkpoint that holds one, as of Lightning or timm. A prefix that all names have, as those of
    wrappers, is removed. BatchNorm's counter of batches may be missing, as in old files.

    Args:
        network: any network.
        file: to load.

    Raises:
        WeightsError: the file is missing, damaged or unsafe; or the names or shapes of its tensors differ from the
            network's, and it is not to be loaded in part; or it has nothing that fits.

    Warns:
        WeightsWarning: what was chosen, converted or left out.
    """
    chosen = read_weights(file)
    named = fit_names(chosen.tensors, network.state_dict(), file.path, file.prefix)
    left = () if not file.partial else _drop_unfitting(network, named)
    assign_weights(network, named.tensors, file.path, partial=file.partial)
    for note in _notes(network, chosen, named, left):
        warnings.warn(f"{str(file.path)!r}: {note}", WeightsWarning, stacklevel=2)


def read_weights(file: WeightsFile) -> Chosen:
    """Return the state dict of a weights file; see `load_weights`.

    Raises:
        WeightsError: the file is missing, damaged or unsafe, has another suffix, or no such state dict.
    """
    path = file.path
    if path.name.endswith(INDEX_SUFFIX):
        return choose_state_dict(read_sharded_safetensors(path), path, file.key)
    if path.suffix == ".safetensors":
        return choose_state_dict(read_safetensors(path), path, file.key)
    if path.suffix in TORCH_SUFFIXES:
        return choose_state_dict(read_torch_file(path), path, file.key)
    raise WeightsError(path, f"has an unknown suffix; give a {SUFFIXES} file.")


def assign_weights(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, partial: bool = False) -> None:
    """Copy tensors into a network, all or none.

    Args:
        network: any network.
        tensors: by the names of `network.state_dict()`.
        path: file of the tensors, for the error.
        partial: whether names of the network may be missing.

    Raises:
        WeightsError: a name or shape differs from the network's; the first is named.
    """
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in tensors and not name.endswith(COUNTER)]
    unknown = sorted(name for name in tensors if name not in wanted)
    if missing and not partial:
        raise WeightsError(path, f"lacks {_first_of(missing)}, which the network has; is it of another network?")
    if unknown:
        raise WeightsError(path, f"holds {_first_of(unknown)}, which the network lacks; is it of another network?")
    for name, own in wanted.items():  # in the network's order, since that of a safetensors file is arbitrary
        if name in tensors and tensors[name].shape != own.shape:
            shapes = f"{list(tensors[name].shape)}, the network's {list(own.shape)}"
            raise WeightsError(path, f"holds tensor {name!r} of shape {shapes}.")
    if not tensors:
        raise WeightsError(path, "holds no tensor of the network.")
    network.load_state_dict(dict(tensors), strict=False)


def _drop_unfitting(network: nn.Module, named: Named) -> tuple[str, ...]:
    """Take the tensors that do not fit the network out of `named`; return their names."""
    wanted = network.state_dict()
    unfitting = [
        name for name, tensor in named.tensors.items() if name not in wanted or tensor.shape != wanted[name].shape
    ]
    for name in unfitting:
        del named.tensors[name]
    return tuple(unfitting)


def _notes(network: nn.Module, chosen: Chosen, named: Named, unfitting: tuple[str, ...]) -> Iterable[str]:
    """Yield what a user has to know of how a file was loaded."""
    wanted = network.state_dict()
    if chosen.others:
        others = ", ".join(repr(key) if key else "the file itself" for key in chosen.others)
        yield f"{chosen.key!r} was loaded; there is also {others} (`weights_key`)."
    if named.prefix and named.prefix != "module.":
        yield f"names were loaded without their prefix {named.prefix!r}."
    if left := (*named.left, *unfitting):
        yield f"not loaded, since the network has no such tensor: {_list(left)}."
    missing = [name for name in wanted if name not in named.tensors and not name.endswith(COUNTER)]
    if missing:
        yield f"the network keeps its own {_list(missing)}."
    kinds = {tensor.dtype for name, tensor in named.tensors.items() if tensor.dtype != wanted[name].dtype}
    if kinds:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        yield f"tensors in {names} were converted to the network's {_name(wanted)}."


def _name(wanted: Mapping[str, Tensor]) -> str:
    dtype = next((tensor.dtype for tensor in wanted.values() if tensor.is_floating_point()), torch.float32)
    return str(dtype).removeprefix("torch.")


def _list(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(map(repr, found[:_SHOWN])) + more


def _first_of(names: list[str]) -> str:
    others = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return f"tensor {names[0]!r}{others}"
