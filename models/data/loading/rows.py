"""Rows of a data set as tensors: held on the device, or read from files as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from normfold.contract.arrays import Array, Float32Array
from normfold.models.data.data import Dataset
from normfold.models.data.image_files.decoded import DecodedImages
from normfold.models.data.loading.parallel import map_in_order
from normfold.models.data.splits import IndexArray


class Rows(Protocol):
    """Standardised samples of some rows, with their targets."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *input_shape)."""

    def batches(self, places: Sequence[IndexArray]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield samples and targets of each batch, on the device.

        Args:
            places: of the rows of each batch, from 0 to N - 1.
        """

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield samples and targets of all rows in order, at most `size` at a time, on the device."""


@dataclass(frozen=True)
class HeldRows:
    """Rows in memory."""

    x: Tensor
    """(N, *input_shape), float32."""
    y: Tensor
    """(N, *target_shape)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *input_shape)."""
        return tuple(self.x.shape)

    def batches(self, places: Sequence[IndexArray]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield samples and targets of each batch."""
        for batch in places:
            selected = torch.from_numpy(batch).to(self.x.device)  # (B,)
            yield self.x[selected], self.y[selected]

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield samples and targets of all rows in order."""
        return zip(torch.split(self.x, size), torch.split(self.y, size), strict=True)


@dataclass(frozen=True)
class FileRows:
    """Rows that are read, decoded and standardised each time that they are needed, by the data set's workers."""

    dataset: Dataset
    rows: IndexArray
    device: torch.device

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *input_shape)."""
        return (len(self.rows), *self.dataset.input_shape)

    def batches(self, places: Sequence[IndexArray]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield samples and targets of each batch."""
        read: Callable[[IndexArray], tuple[Float32Array, Array]] = _Read(self.dataset)
        rows = [self.rows[batch] for batch in places]
        for x, y in map_in_order(read, rows, self.dataset.workers):
            yield torch.from_numpy(x).to(self.device), torch.from_numpy(y).to(self.device)

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield samples and targets of all rows in order."""
        count = len(self.rows)
        return self.batches([np.arange(start, min(start + size, count)) for start in range(0, count, size)])


def rows_of(dataset: Dataset, rows: IndexArray, device: torch.device) -> HeldRows | FileRows:
    """Return some rows of a data set: in memory where its samples are, otherwise from their files."""
    if isinstance(dataset.x, DecodedImages):
        return FileRows(dataset, rows, device)
    x, y = torch.from_numpy(dataset.tensors(rows)), torch.from_numpy(dataset.targets(rows))
    return HeldRows(x.to(device), y.to(device))


class _Read:
    """Reads one batch; a class, so that it can be sent to another process."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __call__(self, rows: IndexArray) -> tuple[Float32Array, Array]:
        return self._dataset.tensors(rows), self._dataset.targets(rows)
