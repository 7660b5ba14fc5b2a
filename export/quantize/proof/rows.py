"""The rows on which two networks are compared, and how they are run: in batches, so that outputs never fill memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from normfold.contract.precision.record import RowOrigin
from normfold.export.arrays import Tensor
from normfold.export.errors import ModelInputError
from normfold.export.verify.runner import Inputs, ValueInfo

BATCH_ROWS = 32
"""Rows of a batch, where the network fixes no size."""


@dataclass(frozen=True, eq=False)
class ProofRows:
    """Rows, as the folded float32 network takes them.

    Attributes:
        inputs: an array for each input, rows first.
        labels: by output, the class of each row; of masks, of each pixel.
        origin: "random" rows were made up, and say nothing about accuracy.
    """

    inputs: Inputs
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    origin: RowOrigin = "samples"

    @property
    def are_random(self) -> bool:
        """Whether they were made up."""
        return self.origin == "random"

    @property
    def count(self) -> int:
        """Number of rows; 1 where inputs have no common axis of rows."""
        counts = {len(array) if array.ndim else 1 for array in self.inputs.values()}
        return counts.pop() if len(counts) == 1 else 1

    def batches(self, infos: Sequence[ValueInfo], batchable: bool) -> Iterator[tuple[slice, Inputs]]:
        """Yield places of rows and their inputs, batch by batch.

        Args:
            infos: the network's inputs; where they fix a size of batches, a rest that is no whole batch is left out.
            batchable: rows are independent; others run one by one, as a server runs them.

        Raises:
            ModelInputError: there are fewer rows than the network takes at once.
        """
        lengths = {len(array) for array in self.inputs.values() if array.ndim}
        if len(lengths) != 1 or any(not array.ndim for array in self.inputs.values()):
            yield slice(0, 1), self.inputs
            return
        size = batch_size(infos, batchable)
        is_fixed = fixed_batch_size(infos) is not None
        if is_fixed and self.count < size:
            raise ModelInputError(f"The network takes batches of {size} rows; {self.count} are not a whole batch.")
        for start in range(0, self.count, size):
            place = slice(start, min(start + size, self.count))
            if not is_fixed or place.stop - place.start == size:
                yield place, {name: array[place] for name, array in self.inputs.items()}

    def repeated(self, count: int) -> Inputs:
        """Return so many rows, from the first on; where there are fewer, again from the first."""
        places = np.arange(count)
        return {
            name: np.take(array, places, axis=0, mode="wrap") if array.ndim else array
            for name, array in self.inputs.items()
        }


def fixed_batch_size(infos: Sequence[ValueInfo]) -> int | None:
    """Return the number of rows that the network takes at once; None where it is free."""
    sizes = [info.shape[0] for info in infos if info.shape]
    return next((size for size in sizes if isinstance(size, int)), None)


def batch_size(infos: Sequence[ValueInfo], batchable: bool) -> int:
    """Return how many rows to run at once."""
    return fixed_batch_size(infos) or (BATCH_ROWS if batchable else 1)
