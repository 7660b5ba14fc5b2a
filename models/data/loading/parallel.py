"""Calls of one function for many items, in worker processes, with the results in the order of the items."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from normfold.models.errors import DataError

Item = TypeVar("Item")
Found = TypeVar("Found")

PREFETCHED = 2
"""Results that each worker process prepares in advance."""


def map_in_order(
    function: Callable[[Item], Found], items: Sequence[Item], workers: int, *, prefetched: int = PREFETCHED
) -> Iterator[Found]:
    """Yield `function(item)` for each item; the number of workers does not change the results.

    torch's DataLoader starts and watches the processes. Results come as NumPy arrays through pipes, since containers
    often have little of the shared memory that tensors would take.

    Args:
        function: of one item; it and its results can be pickled.
        items: in order.
        workers: number of processes; 0 calls the function here.
        prefetched: results that each worker prepares in advance, which bounds memory.

    Raises:
        DataError: as the function raises it.
    """
    if workers == 0:
        yield from map(function, items)
        return
    import torch
    from torch.utils.data import DataLoader

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # the number is the user's choice
        loader: DataLoader[Found | DataError] = DataLoader(
            _Calls(function, items),  # type: ignore[arg-type]  # a sequence is enough
            batch_size=None,
            num_workers=min(workers, len(items)),
            collate_fn=_unchanged,
            prefetch_factor=prefetched,
            generator=torch.Generator(),  # the loader draws a seed, and the global state decides dropout's masks
        )
        results = iter(loader)  # starts the processes
    for found in results:
        if isinstance(found, DataError):
            raise found
        yield found


class _Calls(Generic[Item, Found]):
    """The calls as a sequence. An error is a result, since the loader would write a traceback into its sentence."""

    def __init__(self, function: Callable[[Item], Found], items: Sequence[Item]) -> None:
        self._function, self._items = function, items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Found | DataError:
        try:
            return self._function(self._items[index])
        except DataError as error:
            return error


def _unchanged(found: Found) -> Found:
    return found
