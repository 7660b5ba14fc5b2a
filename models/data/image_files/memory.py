"""Decoded images in memory, where they fit, and their statistics where they do not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from normfold.contract.arrays import Array, Float64Array
from normfold.models.data.files import RawData
from normfold.models.data.image_files.decoded import DecodedImages, DecodedMasks
from normfold.models.data.loading.parallel import map_in_order
from normfold.models.data.splits import IndexArray
from normfold.models.errors import DataError

MAX_HELD_BYTES = 2**30
"""Decoded images and masks up to this size are held in memory unless `in_memory` says otherwise.

It does not depend on the machine, so that a run is the same everywhere."""

MAX_CHUNK_BYTES = 2**24
"""Size of the images that are decoded at a time."""

MAX_WORKERS = 4
"""Maximum number of worker processes by default."""


def default_workers() -> int:
    """Return how many processes decode beside the one that trains: one for each other processor, at most four."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, available - 1)


def is_held(raw: RawData, in_memory: bool | None) -> bool:
    """Return whether the images are to be held in memory: by choice, or by their size.

    Args:
        raw: of images that are decoded when they are taken.
        in_memory: the choice; None leaves it to the size.
    """
    return raw.x.nbytes + raw.y.nbytes <= MAX_HELD_BYTES if in_memory is None else in_memory


def hold_in_memory(raw: RawData, workers: int) -> RawData:
    """Decode all images, and masks, into memory.

    Raises:
        DataError: a file cannot be read, or memory is too small.
    """
    try:
        x = _decode_all(raw.x, workers) if isinstance(raw.x, DecodedImages) else raw.x
        y = _decode_all(raw.y, workers) if isinstance(raw.y, DecodedMasks) else raw.y
    except MemoryError:
        count, _, height, width = raw.x.shape
        gib = (raw.x.nbytes + raw.y.nbytes) / 2**30
        raise DataError(
            f"{count} images of {height}x{width} take {gib:.0f} GiB, more than this machine's memory; "
            "give a smaller `image_size`, or leave out `in_memory`."
        ) from None
    return replace(raw, x=x, y=y)


def measure_files(images: DecodedImages, train: IndexArray, workers: int) -> tuple[Float64Array, Float64Array, Array]:
    """Decode every image once, and return mean, standard deviation and range of the training split's channels.

    Two parts of n_a and n_b values with means m_a, m_b and centred sums of squares s_a, s_b are merged by
        m = m_a + (m_b - m_a) * n_b / n        s = s_a + s_b + (m_b - m_a)² * n_a * n_b / n        n = n_a + n_b

    Source: Chan, Golub & LeVeque 1983, The American Statistician 37(3), equation 2.1.

    Args:
        images: of all splits.
        train: rows of the training split, ascending.
        workers: number of processes that decode; it does not change the result.

    Returns:
        Mean (channels,), biased standard deviation (channels,), both float64, and whether a channel is constant
        (channels,), bool.

    Raises:
        DataError: a file of any split cannot be read.
    """
    in_train = np.zeros(len(images), bool)
    in_train[train] = True
    count = 0
    mean, squares = np.zeros(images.channels), np.zeros(images.channels)
    lowest, highest = np.full(images.channels, np.inf), np.full(images.channels, -np.inf)
    for part in map_in_order(_Moments(images, in_train), _chunks(images), workers):
        if part.count:
            total, difference = count + part.count, part.mean - mean
            squares = squares + part.squares + difference**2 * (count * part.count / total)
            mean = mean + difference * (part.count / total)
            lowest, highest = np.minimum(lowest, part.lowest), np.maximum(highest, part.highest)
            count = total
    return mean, np.sqrt(squares / count), lowest == highest


class _Part:
    """Moments of the training images of one chunk, by channel."""

    def __init__(self, x: Array) -> None:
        axes = (0, 2, 3)
        self.count = x.size // x.shape[1]
        if self.count:
            self.mean: Float64Array = x.mean(axes, dtype=np.float64)
            self.squares: Float64Array = x.var(axes, dtype=np.float64) * self.count
            self.lowest, self.highest = x.min(axes), x.max(axes)


class _Moments:
    """Decodes one chunk; a class, so that it can be sent to another process."""

    def __init__(self, images: DecodedImages, in_train: npt.NDArray[np.bool_]) -> None:
        self._images, self._in_train = images, in_train

    def __call__(self, rows: IndexArray) -> _Part:
        return _Part(self._images[rows][self._in_train[rows]])


def _chunks(samples: DecodedImages | DecodedMasks) -> list[IndexArray]:
    """Return all rows, ascending, in parts of at most MAX_CHUNK_BYTES, at least one row each."""
    rows = max(1, MAX_CHUNK_BYTES * len(samples) // max(1, samples.nbytes))
    return [np.arange(start, min(start + rows, len(samples))) for start in range(0, len(samples), rows)]


def _decode_all(samples: DecodedImages | DecodedMasks, workers: int) -> Array:
    held: Array = np.empty(samples.shape, samples.dtype)  # first, since this is what memory may be too small for
    take: Callable[[IndexArray], Array] = samples.__getitem__
    start = 0
    for part in map_in_order(take, _chunks(samples), workers):
        held[start : start + len(part)] = part
        start += len(part)
    return held
