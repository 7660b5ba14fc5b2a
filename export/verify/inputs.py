"""Inputs to run a model on: seeded random ones, or the user's own from a file; and the same moved a little."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from normfold.export.errors import FeedError
from normfold.export.graph.constants import FLOATS
from normfold.export.verify.runner import Feeds, Port, Tensor
from normfold.export.verify.tolerance import is_float

ROWS = 3
"""Size of a free first axis."""

FREE_SIZES = (32, 96, 224)
"""Sizes tried for every other free axis; deep networks need more than the first."""


def random_feeds(inputs: Sequence[Port], free_size: int, seed: int, spread: int = 0) -> Feeds:
    """Make one tensor for each input.

    Free axes behind the first have `free_size`; with `spread` each has that much more than the one before. Those of one
    name agree.

    Floats are standard normal; 8-bit integers take every value; wider integers are 0 or 1, since they may be indices
    into a table of unknown length.

    Raises:
        FeedError: an input's dtype has no numbers, such as text.
    """
    rng = np.random.default_rng(seed)
    names = dict.fromkeys(
        _axis_name(port, axis) for port in inputs for axis, size in enumerate(port.shape) if not isinstance(size, int)
    )
    sizes = {name: free_size + spread * (place + 1) for place, name in enumerate(names)}
    return {port.name: _random_tensor(port, sizes, rng) for port in inputs}


def read_feeds(path: Path, inputs: Sequence[Port]) -> Feeds:
    """Read inputs from an .npz file with one array for each input.

    Raises:
        FeedError: unreadable, or names, dtypes or shapes that the model does not take.
    """
    arrays = read_arrays(path)
    if arrays.keys() != {port.name for port in inputs}:
        wanted = [port.name for port in inputs]
        raise FeedError(f"{str(path)!r} holds the arrays {sorted(arrays)}; the model's inputs are {wanted}.")
    for port in inputs:
        array = arrays[port.name]
        if array.dtype != port.dtype.numpy():
            raise FeedError(f"The array {port.name!r} is {array.dtype}, the model's input {port.dtype.numpy()}.")
        if not port.fits(array.shape):
            raise FeedError(f"The array {port.name!r} has shape {list(array.shape)}, the input {list(port.shape)}.")
        if not array.size or not np.isfinite(array).all():
            raise FeedError(f"The array {port.name!r} is empty, or holds NaN or infinity, which prove nothing.")
    return arrays


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Read all arrays of an .npz file.

    Raises:
        FeedError: it cannot be read, or holds something else.
    """
    try:
        with zipfile.ZipFile(path):  # numpy would take other files for pickles, or for a single array
            pass
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise FeedError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except (zipfile.BadZipFile, ValueError, EOFError, zlib.error):
        raise FeedError(f"{str(path)!r} is no .npz file of plain arrays, or is damaged.") from None


def moved_by_one_ulp(feeds: Feeds, seed: int) -> Feeds:
    """Return the feeds with every float moved by one unit in the last place, up or down at random."""
    rng = np.random.default_rng(seed)
    return {name: next_float(array, rng) if is_float(array) else array for name, array in feeds.items()}


def next_float(array: Tensor, rng: np.random.Generator) -> Tensor:
    """Return an array of floats, each moved to a neighbouring float, up or down at random."""
    towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
    moved: Tensor = np.nextafter(array, towards)
    return moved


def _axis_name(port: Port, axis: int) -> str:
    """Return the name of a free axis; one without a name is like no other."""
    size = port.shape[axis]
    return size if isinstance(size, str) else f"{port.name}/{axis}"


def _random_tensor(port: Port, sizes: dict[str, int], rng: np.random.Generator) -> Tensor:
    shape = [
        size if isinstance(size, int) else sizes[_axis_name(port, axis)] if axis else ROWS
        for axis, size in enumerate(port.shape)
    ]
    if port.dtype in FLOATS:
        return rng.standard_normal(shape).astype(port.dtype.numpy())
    if port.dtype in (ir.DataType.UINT8, ir.DataType.INT8):
        limits = np.iinfo(port.dtype.numpy())
        return rng.integers(limits.min, limits.max, shape, port.dtype.numpy(), endpoint=True)
    if port.dtype.numpy().kind in "biu":
        return rng.integers(0, 2, shape).astype(port.dtype.numpy())
    raise FeedError(f"Input {port.name!r} is {port.dtype.name}; give inputs in an .npz file.")
