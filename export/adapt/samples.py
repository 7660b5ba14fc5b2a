"""Samples: what a network takes, in the order in which it came, from arrays that are checked first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normfold.contract.preprocess import ImagePreprocessing, Preprocessing, RowPreprocessing
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.export.arrays import Tensor, is_float
from normfold.export.errors import IdenticalSamplesError, SampleCountError, SampleError
from normfold.export.graph.pixels import Pixels, from_pixels
from normfold.export.verify.runner import Inputs, ValueInfo

RAW = "x"
"""The array of raw inputs, named as training data name it."""

MIN_SAMPLES = 32
"""Two halves of 16 to compare. A channel's mean is then known to 1/√32 = 0.18 of its standard deviation at worst."""

MAX_SAMPLES = 20_000
"""1/√20000 = 0.007 of a standard deviation: more would cost time and memory, and change nothing."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples in the order in which they came."""

    count: int
    read: Callable[[int, int], Inputs]
    """Return the tensors of the samples from one position up to another."""
    warnings: tuple[str, ...] = ()
    origin: str | None = None
    """One sentence: how many rows a service kept, and of which time; None for other samples."""


@dataclass(frozen=True)
class SampleFormat:
    """The form of samples: the unfolded network's inputs, and what the bundle says of raw inputs and pixels."""

    infos: Sequence[ValueInfo]
    preprocessing: Preprocessing | None
    takes_pixels: bool


def require_usable(samples: Samples, least: int = MIN_SAMPLES) -> None:
    """Check that there are enough samples, not too many, and not all the same.

    Raises:
        SampleCountError: they are too few, or too many.
        IdenticalSamplesError: they are all the same.
    """
    if samples.count < least:
        purpose = (
            "so that their two halves can be compared and a channel's mean is known to a fifth of its standard "
            "deviation"
            if least >= MIN_SAMPLES
            else "as one has no variance"
        )
        raise SampleCountError(samples.count, f"too few: at least {least} are needed, {purpose}")
    if samples.count > MAX_SAMPLES:
        raise SampleCountError(samples.count, f"more than the {MAX_SAMPLES:,} that can help; give a part of them")
    first = samples.read(0, 1)
    for place in range(1, samples.count):
        other = samples.read(place, place + 1)
        if any(not np.array_equal(other[name], tensor) for name, tensor in first.items()):
            return
    raise IdenticalSamplesError(samples.count)


def tensor_samples(path: Path, arrays: Mapping[str, Tensor], expected: SampleFormat) -> Samples:
    """Return samples of tensors, as the network takes them, or of pixels.

    Args:
        path: of the file or folder that they come from, for messages.
        arrays: by input, rows first.
        expected: what the network takes.

    Raises:
        SampleError: dtypes, shapes or numbers of rows differ, or a value is not finite.
    """
    for info in expected.infos:
        array, dtype = arrays[info.name], np.dtype(np.uint8) if expected.takes_pixels else info.dtype.numpy()
        if array.dtype != dtype:
            raise SampleError(f"The array {info.name!r} of {str(path)!r} is {array.dtype}, the network takes {dtype}.")
        sample = ValueInfo(info.name, info.dtype, info.shape[1:])
        if not info.shape or not array.ndim or not sample.fits(array.shape[1:]):
            raise SampleError(
                f"The array {info.name!r} of {str(path)!r} has shape {list(array.shape)}, the input {list(info.shape)}."
            )
        _require_finite(array, f"the array {info.name!r} of {str(path)!r}")
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise SampleError(f"The arrays of {str(path)!r} hold different numbers of samples: {counts}.")

    def read(start: int, stop: int) -> Inputs:
        return {info.name: _as_tensor(arrays[info.name][start:stop], info, expected) for info in expected.infos}

    return Samples(next(iter(counts.values())), read)


def _as_tensor(array: Tensor, info: ValueInfo, expected: SampleFormat) -> Tensor:
    if not expected.takes_pixels:
        return array
    return Pixels.of(from_pixels(expected.preprocessing).preprocessing).standardised(array, info.dtype)


def raw_samples(
    path: Path, arrays: Mapping[str, Tensor], preprocessing: Preprocessing, expected: SampleFormat
) -> Samples:
    """Return samples of raw inputs, as training data have them.

    Args:
        path: of the file that they come from, for messages.
        arrays: its arrays; RAW is required, and names of columns or channels are compared with the card's.
        preprocessing: of the bundle's card.
        expected: what the network takes.

    Raises:
        SampleError: they are not what the card describes, or a value is not finite.
    """
    array, where = arrays[RAW], f"the array {RAW!r} of {str(path)!r}"
    if isinstance(preprocessing, TablePreprocessing):
        raise SampleError(f"{str(path)!r} holds raw inputs; those of this network are rows with texts: give a .csv.")
    if array.dtype.kind not in "iuf":
        raise SampleError(f"{_capitalised(where)} is {array.dtype}; it must hold real numbers.")
    sample = preprocessing.sample_shape
    if array.shape[1:] == sample[1:] and sample[:1] == (1,) and isinstance(preprocessing, ImagePreprocessing):
        array = array[:, None]  # grey pictures without an axis for their one channel
    if array.shape[1:] != sample or not array.ndim:
        raise SampleError(f"{_capitalised(where)} has shape {list(array.shape)}; one sample is {list(sample)}.")
    _require_finite(array, where)
    if isinstance(preprocessing, ImagePreprocessing):
        return standardised_samples(array, preprocessing, expected, *_beyond(array, preprocessing.value_max, where))
    what, wanted = (
        ("columns", preprocessing.columns)
        if isinstance(preprocessing, RowPreprocessing)
        else ("channels", preprocessing.channels)
    )
    names = tuple(map(str, arrays.get(what, np.array(wanted)).reshape(-1)))
    if names != wanted:
        raise SampleError(f"{str(path)!r} has the {what} {list(names)}, the card {list(wanted)}.")
    return standardised_samples(array, preprocessing, expected)


def _beyond(array: Tensor, full: float, where: str) -> list[str]:
    """Return a warning if raw values are not of the card's range: training takes them, people rarely mean them."""
    if not len(array) or 0 <= array.min() <= array.max() <= full:
        return []
    reach = f"from {array.min():g} to {array.max():g}, beyond the 0 to {full:g} of the card"
    return [f"{_capitalised(where)} reaches {reach}; are these its units?"]


def standardised_samples(
    array: Tensor, preprocessing: Preprocessing, expected: SampleFormat, *warnings: str
) -> Samples:
    """Return samples that are standardised when they are read.

    Args:
        array: raw inputs, rows first, as the preprocessing takes them.
        preprocessing: of the bundle's card.
        expected: what the network takes; it has one input.
        warnings: sentences about the samples.
    """
    name = expected.infos[0].name
    return Samples(len(array), lambda start, stop: {name: preprocessing.standardise(array[start:stop])}, warnings)


def as_pixels(samples: Samples, preprocessing: Preprocessing | None) -> Samples:
    """Return the 8-bit pixels of standardised samples.

    Raises:
        PixelError: the preprocessing is of rows or sequences.
    """
    pixels = Pixels.of(from_pixels(preprocessing).preprocessing)

    def read(start: int, stop: int) -> Inputs:
        return {name: pixels.pixels_of(tensor) for name, tensor in samples.read(start, stop).items()}

    return Samples(samples.count, read, samples.warnings)


def _require_finite(array: Tensor, where: str) -> None:
    """Check that every value is a finite number, in the network's float32 too."""
    if not is_float(array):
        return
    limit = min(np.finfo(np.float32).max, np.finfo(array.dtype).max) if array.dtype.kind == "f" else np.inf
    with np.errstate(invalid="ignore"):
        usable = np.abs(array) <= limit if np.isfinite(limit) else np.isfinite(array)
    wrong = np.flatnonzero(~usable.all(axis=tuple(range(1, array.ndim))))
    if wrong.size:
        raise SampleError(f"Sample {wrong[0]} of {where}, counted from 0, holds a value that is not a finite number.")


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]
