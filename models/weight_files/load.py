"""Load a weights file into a network."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from normfold.models.errors import WeightsError, WeightsWarning
from normfold.models.weight_files.head import find_other_heads
from normfold.models.weight_files.names import COUNTER, Named, fit_names
from normfold.models.weight_files.notes import notes_on_loading
from normfold.models.weight_files.safetensors_file import INDEX_SUFFIX, read_safetensors, read_sharded_safetensors
from normfold.models.weight_files.state_dicts import Chosen, choose_state_dict
from normfold.models.weight_files.torch_file import read_torch_file

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
SUFFIXES = f".safetensors, {INDEX_SUFFIX}, {', '.join(TORCH_SUFFIXES[:-1])} or .pth{TORCH_SUFFIXES[-1]}"

WEIGHTS_NAME = "weights.safetensors"
"""Weights of a run folder."""

FOLDER_FILES = (WEIGHTS_NAME, "model.safetensors", f"model{INDEX_SUFFIX}", "pytorch_model.bin")
"""What is read of a folder, the first that it has: a run folder's weights, or those of Hugging Face."""


@dataclass(frozen=True)
class WeightsFile:
    """A weights file, and how it is to be read.

    Attributes:
        path: of the file, or of a folder with one: a run folder, or one of Hugging Face.
        key: of the state dict in it, such as "state_dict_ema"; None for a usual one, or the only one.
        prefix: before the network's names; None for the one under which the whole network is found.
        partial: load the tensors that fit, and leave the others as they are.
    """

    path: Path
    key: str | None = None
    prefix: str | None = None
    partial: bool = False


class Loaded(NamedTuple):
    """What a network has from a weights file.

    Attributes:
        taken: names of its tensors that are the file's.
        new: names of those that it keeps as they were, but for counters of batches.
    """

    taken: tuple[str, ...]
    new: tuple[str, ...]


def load_weights(network: nn.Module, file: WeightsFile, outputs: int | None = None) -> Loaded:
    """Load every tensor of a network from a file of safetensors or of torch.save.

    A torch file is read with weights_only=True: no code of it runs, and objects of unknown classes are ignored. It may
    be a state dict, or a checkpoint that holds one, as of Lightning or timm. A prefix that all names have, as those of
    wrappers, is removed. BatchNorm's counter of batches may be missing, as in old files.

    Args:
        network: any network.
        file: to load.
        outputs: of the network for a sample, to keep a head of this size where the file's has another; None to load
            every tensor.

    Raises:
        WeightsError: the file is missing, damaged or unsafe; or the names or shapes of its tensors differ from the
            network's, and it is not to be loaded in part; or it has nothing that fits.

    Warns:
        WeightsWarning: what was chosen, converted or left out.
    """
    chosen = read_weights(file)
    named = fit_names(chosen.tensors, network.state_dict(), file.path, file.prefix, file.partial)
    heads = () if outputs is None else find_other_heads(network, named.tensors, outputs)
    for name in heads:
        del named.tensors[name]
    left = () if not file.partial else _drop_unfitting(network, named)
    if not file.partial:
        _check_complete(network, named, file.path, heads)
    assign_weights(network, named.tensors, file.path, partial=True)
    taken = tuple(name for name in network.state_dict() if name in named.tensors)
    new = tuple(name for name in network.state_dict() if name not in named.tensors and not name.endswith(COUNTER))
    for note in notes_on_loading(network, chosen, named, left, [name for name in new if outputs is None]):
        warnings.warn(f"{str(file.path)!r}: {note}", WeightsWarning, stacklevel=2)
    return Loaded(taken, new)


def find_file(path: Path) -> Path:
    """Return the weights file of a folder, or the path itself if it is none.

    Raises:
        WeightsError: the folder holds no weights file.
    """
    if not path.is_dir():
        return path
    found = [path / name for name in FOLDER_FILES if (path / name).is_file()]
    if not found:
        raise WeightsError(path, f"is a folder without weights; it has none of {', '.join(FOLDER_FILES)}.")
    return found[0]


def read_weights(file: WeightsFile) -> Chosen:
    """Return the state dict of a weights file; see `load_weights`.

    Raises:
        WeightsError: the file is missing, damaged or unsafe, has another suffix, or no such state dict.
    """
    path = find_file(file.path)
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
            raise WeightsError(path, f"holds {_other_shape(name, tensors[name], own)}.")
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


def _check_complete(network: nn.Module, named: Named, path: Path, replaced: Collection[str]) -> None:
    """Check that a network and a file have the same tensors, but for replaced ones.

    Raises:
        WeightsError: naming the first that is missing, unknown or of another shape, and how to load the others.
    """
    wanted = network.state_dict()
    names = (name for name in wanted if name not in named.tensors and not name.endswith(COUNTER))
    missing = [name for name in names if name not in replaced]
    unknown = sorted(name for name in named.tensors if name not in wanted)
    way_out = "is it of another network? `partial` loads the tensors that fit."
    if missing:
        raise WeightsError(path, f"lacks {_first_of(missing)}, which the network has; {way_out}")
    if unknown:
        raise WeightsError(path, f"holds {_first_of(unknown)}, which the network lacks; {way_out}")
    for name, own in wanted.items():
        if name in named.tensors and named.tensors[name].shape != own.shape:
            raise WeightsError(path, f"holds {_other_shape(name, named.tensors[name], own)}; {way_out}")


def _other_shape(name: str, given: Tensor, own: Tensor) -> str:
    return f"tensor {name!r} of shape {list(given.shape)}, the network's {list(own.shape)}"


def _first_of(names: list[str]) -> str:
    others = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return f"tensor {names[0]!r}{others}"
