"""Read safetensors files: one, or several with an index, as Hugging Face saves large networks."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from normfold.models.errors import WeightsError

INDEX_SUFFIX = ".safetensors.index.json"


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


def read_sharded_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of several safetensors files beside their index, `*.safetensors.index.json`.

    Raises:
        WeightsError: the index or a file is missing or damaged, or a file lacks a tensor that the index says it has.
    """
    try:
        places = json.loads(path.read_bytes())["weight_map"]
        files = sorted(set(places.values()))
        named = all(isinstance(file, str) and PurePath(file).name == file for file in files)
    except OSError as error:
        raise WeightsError(path, f"cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError(path, "is not an index of safetensors files: it has no weight_map of names.") from None
    if not named:
        raise WeightsError(path, "names a file outside its folder.")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_safetensors(path.parent / file)
    if missing := [name for name in places if name not in tensors]:
        raise WeightsError(path, f"names tensor {missing[0]!r}, which {places[missing[0]]!r} lacks.")
    return tensors
