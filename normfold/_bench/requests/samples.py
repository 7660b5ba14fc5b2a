"""Samples from an .npz file, cut into requests."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from normfold._bench.model import Model, ModelInput
from normfold._shared.predictions import to_tensor
from normfold.errors import ArgumentError
from normfold.service.codec.json_tensors import DTYPES

Array = npt.NDArray[Any]


def read_samples(path: Path, model: Model, rows: int, max_requests: int) -> list[dict[str, Array]]:
    """Return the tensors of the first requests that a file is enough for.

    An input whose first axis is not free, beside others whose is, has no rows: its array is sent with each request.

    Args:
        path: an .npz with an array for each input, named like it, rows first.
        model: with its inputs.
        rows: of a request.
        max_requests: how many at most.

    Raises:
        ArgumentError: the file cannot be read, lacks an input, or an array has another shape or dtype than the input,
            or fewer rows than a request.
    """
    arrays = _read(path)
    names = [one.name for one in model.inputs]
    if not names or any(name not in arrays for name in names):
        raise ArgumentError(
            f"`samples` {str(path)!r} has the arrays {', '.join(map(repr, arrays)) or 'none'}; the inputs of "
            f"{model.name!r} are {', '.join(map(repr, names)) or 'none'}."
        )
    with_rows = {one.name for one in model.inputs if one.shape[:1] == (-1,)} or {
        one.name for one in model.inputs if one.shape
    }
    tensors = {one.name: _checked(arrays[one.name], one, rows, one.name in with_rows, path) for one in model.inputs}
    lengths = {name: len(tensors[name]) for name in names if name in with_rows}
    if len(set(lengths.values())) > 1:
        raise ArgumentError(f"`samples` {str(path)!r} has arrays of different numbers of rows: {lengths}.")
    length = next(iter(lengths.values()), rows)
    if length < rows:
        raise ArgumentError(f"`samples` {str(path)!r} has {length} rows, fewer than the {rows} of a request.")
    return [
        {name: array[start : start + rows] if name in with_rows else array for name, array in tensors.items()}
        for start in range(0, min(length // rows, max_requests) * rows, rows)
    ]


def _read(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:  # np.load would leave a file that is broken open
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise ValueError
            return {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise ArgumentError(f"`samples` {str(path)!r} cannot be read: {error.strerror or error}.") from None
    except (ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile):
        raise ArgumentError(
            f"`samples` {str(path)!r} is not an .npz of arrays of numbers, truth values or texts."
        ) from None


def _checked(array: Array, declared: ModelInput, rows: int, has_rows: bool, path: Path) -> Array:
    """Return an array in the dtype of its input."""
    what = f"The array {declared.name!r} of `samples` {str(path)!r}"
    dtype, shape = DTYPES.get(declared.datatype), declared.shape
    tensor = to_tensor(declared.name, array.astype("U") if array.dtype.kind == "S" else array)
    if dtype is None or not (tensor.dtype == dtype or (tensor.dtype.kind == dtype.kind == "f")):
        raise ArgumentError(f"{what} has the dtype {array.dtype}; the input's datatype is {declared.datatype}.")
    first = int(has_rows)  # the axis after that of rows
    fits = tensor.ndim == len(shape) and all(
        free in (-1, size) for size, free in zip(tensor.shape[first:], shape[first:], strict=True)
    )
    if not fits or (has_rows and shape[0] not in (-1, rows)):
        needed = f"requests of {rows} row{'s' * (rows != 1)} to the input need {list(shape)} (-1: any size)"
        raise ArgumentError(f"{what} has the shape {list(array.shape)}; {needed}.")
    return tensor.astype(dtype, copy=False)
