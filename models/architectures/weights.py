"""Load weights from safetensors files, and from state dicts of torch without running code."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from normfold.models.errors import WeightsError

NESTED_KEYS = ("state_dict", "model_state_dict", "model")
"""Keys of the state dict in the checkpoints of common training scripts."""

WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile add to every name."""

COUNTER = "num_batches_tracked"
"""BatchNorm's counter of batches, which has no effect in inference."""


def load_weights(network: nn.Module, path: Path) -> None:
    """Load every tensor of a network from `.safetensors`, or from a `.pt` or `.pth` state dict.

    A torch file is read with weights_only=True: it can hold tensors and plain values, never code. The state dict may
    be nested under `state_dict`, `model_state_dict` or `model`; prefixes of wrappers are removed. BatchNorm's counter
    of batches may be missing, as in old files.

    Args:
        network: any network.
        path: of the file.

    Raises:
        WeightsError: the file is missing, damaged or unsafe, or the names or shapes of its tensors differ from the
            network's.
    """
    assign_weights(network, read_weights(path), path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file by name; see `load_weights`.

    Raises:
        WeightsError: the file is missing, damaged or unsafe, or has another suffix.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix in (".pt", ".pth"):
        return _read_torch(path)
    raise WeightsError(path, "has an unknown suffix; give a .safetensors, .pt or .pth file.")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    try:
        return load_safetensors(path.read_bytes())
    except OSError as error:
        raise WeightsError(path, f"cannot be read: {error.strerror}.") from None
    except SafetensorError as error:
        raise WeightsError(path, f"is damaged or not a safetensors file: {error}.") from None


def assign_weights(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a network, all or none.

    Args:
        network: any network.
        tensors: by the names of `network.state_dict()`.
        path: file of the tensors, for the error.

    Raises:
        WeightsError: a name or shape differs from the network's; the first is named.
    """
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in tensors and not name.endswith(COUNTER)]
    unknown = sorted(name for name in tensors if name not in wanted)
    if missing:
        raise WeightsError(path, f"lacks {_first_of(missing)}, which the network has; is it of another network?")
    if unknown:
        raise WeightsError(path, f"holds {_first_of(unknown)}, which the network lacks; is it of another network?")
    for name, own in wanted.items():  # in the network's order, since that of a safetensors file is arbitrary
        if name in tensors and tensors[name].shape != own.shape:
            shapes = f"{list(tensors[name].shape)}, the network's {list(own.shape)}"
            raise WeightsError(path, f"holds tensor {name!r} of shape {shapes}.")
    network.load_state_dict(dict(tensors), strict=False)  # only counters can be missing


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the storages of old files, which load nevertheless
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(path, f"cannot be read: {error.strerror or error}.") from None
    except pickle.UnpicklingError:
        raise WeightsError(
            path, "holds more than tensors, or is damaged; loading it could run code. Save network.state_dict() alone."
        ) from None
    except Exception as error:  # noqa: BLE001 - torch raises many kinds for a damaged file
        raise WeightsError(path, f"is damaged or not a torch file ({type(error).__name__}).") from None
    return _find_state_dict(content, path)


def _find_state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict):
        for key in NESTED_KEYS:
            if isinstance(content.get(key), dict):
                content = content[key]
                break
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(path, "holds no state dict; it must map names to tensors.")
    tensors: dict[str, Tensor] = content
    for prefix in WRAPPER_PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _first_of(names: list[str]) -> str:
    others = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return f"tensor {names[0]!r}{others}"
