"""Inputs to run a model on: seeded random ones, or the user's own from a file, and the same perturbed by one ulp."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array, Tensor, is_float
from normfold.export.errors import ModelInputError
from normfold.export.graph.constants import FLOATS
from normfold.export.graph.pixels import FromPixels, Pixels
from normfold.export.verify.runner import Inputs, Runner, ValueInfo

BATCH_SIZE = 3
"""Size of a free first axis, and of every axis of its name."""

MAX_ELEMENTS = 2**28
"""Elements of one random input: 1 GiB of float32."""

FREE_SIZES = (32, 96, 224)
"""Sizes tried for every other free axis; deep networks need more than the first."""


class Distribution(Enum):
    """What random inputs are drawn from: floats by a function of standard normal ones, integers below a limit.

    The first is for every network; the others are for one that is constant on those.
    """

    STANDARD = (lambda normal: normal, 2)
    LARGE = (lambda normal: 30.0 * normal, 10)
    POSITIVE = (np.abs, 100)
    PIXELS = (lambda normal: np.clip(128.0 + 64.0 * normal, 0.0, 255.0), 256)

    def __init__(self, from_normal: Callable[[Array], Array], limit: int) -> None:
        self.from_normal, self.limit = from_normal, limit


def random_inputs(
    inputs: Sequence[ValueInfo],
    free_size: int,
    seed: int,
    step: int = 0,
    distribution: Distribution = Distribution.STANDARD,
    rows: int = BATCH_SIZE,
) -> Inputs:
    """Make one tensor for each input.

    Free first axes have the size `rows`. The other free axes have `free_size`; with `step` each has that much more than
    the one before. Axes of one name agree.

    Floats are of the distribution, standard normal by default; 8-bit integers take every value; wider integers are
    below the distribution's limit, 0 or 1 by default, since they may be indices into a table of unknown length.

    Raises:
        ModelInputError: an input's dtype has no numbers, such as text, its rank is not known, or its declared shape is
            too large.
    """
    rng = np.random.default_rng(seed)
    shapes = input_shapes(inputs, free_size, step, rows)
    return {
        info.name: _random_tensor(info, shape, rng, distribution) for info, shape in zip(inputs, shapes, strict=True)
    }


def input_shapes(inputs: Sequence[ValueInfo], free_size: int, step: int, rows: int) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors of `random_inputs`."""
    names = {
        _axis_name(info, axis): None
        for info in inputs
        for axis, size in enumerate(info.shape)
        if not isinstance(size, int)
    }
    sizes = {name: free_size + step * (place + 1) for place, name in enumerate(names)}
    sizes |= {_axis_name(info, 0): rows for info in inputs if info.shape and not isinstance(info.shape[0], int)}
    return [
        tuple(size if isinstance(size, int) else sizes[_axis_name(info, axis)] for axis, size in enumerate(info.shape))
        for info in inputs
    ]


def read_inputs(path: Path, inputs: Sequence[ValueInfo]) -> Inputs:
    """Read inputs from an .npz file with one array for each input; text as arrays of str, or of bytes in UTF-8.

    Raises:
        ModelInputError: unreadable, or names, dtypes or shapes that the model does not take.
    """
    arrays = read_arrays(path)
    if arrays.keys() != {info.name for info in inputs}:
        wanted = [info.name for info in inputs]
        raise ModelInputError(f"{str(path)!r} holds the arrays {sorted(arrays)}; the model's inputs are {wanted}.")
    for info in inputs:
        if info.dtype == ir.DataType.STRING and arrays[info.name].dtype.kind in "US":
            arrays[info.name] = _as_text(info.name, arrays[info.name])
        array = arrays[info.name]
        if array.dtype != info.dtype.numpy():
            raise ModelInputError(f"The array {info.name!r} is {array.dtype}, the model's input {info.dtype.numpy()}.")
        if not info.fits(array.shape):
            raise ModelInputError(
                f"The array {info.name!r} has shape {list(array.shape)}, the input {list(info.shape)}."
            )
        if not array.size or (array.dtype != object and not np.isfinite(array).all()):
            raise ModelInputError(f"The array {info.name!r} is empty, or holds NaN or infinity, which verify nothing.")
    return arrays


def _as_text(name: str, array: Tensor) -> Tensor:
    """Return an array of NumPy's fixed-width text as ONNX Runtime takes it, an array of str.

    Raises:
        ModelInputError: bytes that are not UTF-8.
    """
    elements = array.reshape(-1).tolist()
    try:
        texts = [one.decode() if isinstance(one, bytes) else one for one in elements]
    except UnicodeDecodeError:
        raise ModelInputError(f"The array {name!r} holds bytes that are not UTF-8 text.") from None
    made = np.empty(len(texts), np.object_)
    made[:] = texts
    return made.reshape(array.shape)


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Read all arrays of an .npz file.

    Raises:
        ModelInputError: it cannot be read, or holds something else.
    """
    try:
        with zipfile.ZipFile(path):  # numpy would take other files for pickles, or for a single array
            pass
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise ModelInputError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise ModelInputError(f"{str(path)!r} is not an .npz file of plain arrays, or is damaged.") from None
        raise ModelInputError(
            f"{str(path)!r} holds an array of Python objects, which is not read; store text as str: array.astype(str)."
        ) from None
    except (zipfile.BadZipFile, EOFError, zlib.error):
        raise ModelInputError(f"{str(path)!r} is not an .npz file of plain arrays, or is damaged.") from None


def standardiser(original: Runner, pixels: FromPixels | None) -> Callable[[Inputs], Inputs]:
    """Return a function from the folded model's inputs to the original's: these standardised where they are pixels."""
    return _unchanged if pixels is None else partial(_standardise, original, pixels)


def perturbed_by_one_ulp(inputs: Inputs, seed: int) -> Inputs:
    """Return the inputs with every float perturbed by one unit in the last place, up or down at random."""
    rng = np.random.default_rng(seed)
    return {name: next_float(array, rng) if is_float(array) else array for name, array in inputs.items()}


def next_float(array: Tensor, rng: np.random.Generator) -> Tensor:
    """Return an array of floats, each replaced by a neighbouring float, up or down at random."""
    towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
    perturbed: Tensor = np.nextafter(array, towards)
    return perturbed


def _standardise(runner: Runner, pixels: FromPixels, inputs: Inputs) -> Inputs:
    standard = Pixels.of(pixels.preprocessing)
    return {info.name: standard.standardised(inputs[info.name], info.dtype) for info in runner.inputs}


def _unchanged(inputs: Inputs) -> Inputs:
    return inputs


def _axis_name(info: ValueInfo, axis: int) -> str:
    """Return the name of a free axis; one without a name is like no other."""
    size = info.shape[axis]
    return size if isinstance(size, str) else f"{info.name}/{axis}"


def _random_tensor(
    info: ValueInfo, shape: tuple[int, ...], rng: np.random.Generator, distribution: Distribution
) -> Tensor:
    if not info.rank_is_known:
        raise ModelInputError(f"The rank of input {info.name!r} is not known; give inputs in an .npz file.")
    if prod(shape) > MAX_ELEMENTS:
        text = f"Random inputs of the shape {list(info.shape)} of input {info.name!r} would not fit in memory"
        raise ModelInputError(f"{text}; give inputs in an .npz file.")
    if info.dtype in FLOATS:
        return np.asarray(distribution.from_normal(rng.standard_normal(shape))).astype(info.dtype.numpy())
    if info.dtype in (ir.DataType.UINT8, ir.DataType.INT8):
        limits = np.iinfo(info.dtype.numpy())
        return rng.integers(limits.min, limits.max, shape, info.dtype.numpy(), endpoint=True)
    if info.dtype.numpy().kind in "biu":
        limit = 2 if info.dtype == ir.DataType.BOOL else distribution.limit
        return rng.integers(0, limit, shape).astype(info.dtype.numpy())
    raise ModelInputError(
        f"Input {info.name!r} is {info.dtype.name}; give inputs in an .npz file, text as an array of str."
    )
