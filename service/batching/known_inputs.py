"""Tensors on which a network has run: where it fails on those of a request, they tell whose fault that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from normfold.service.codec.json_tensors import DTYPES
from normfold.service.errors import InvalidRequestError, RunError
from normfold.service.runtime.session import Array

MAX_BYTES = 2**20
"""Tensors of a request that have more bytes are not kept."""

TRIED_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 224, 256)
"""Sizes that are tried for free ones of a network that was not warmed up; 224 is that of most networks for pictures."""

_MAX_TRIED_ELEMENTS = 2**20


class Run(Protocol):
    """Runs a network once."""

    def __call__(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Return the outputs.

        Raises:
            InvalidRequestError, RunError: the network fails on these tensors.
        """


class KnownInputs:
    """Tensors on which one network has run.

    Those of its warm-up; otherwise a copy of those of the first request that it has answered, or, before there is one,
    zeros and empty strings of some sizes. May be used from any thread.

    Args:
        tensors: by input, of the warm-up; None where there was none.
        specs: (datatype, shape) of each input, for tensors that are tried where there are none.
    """

    def __init__(
        self, tensors: Mapping[str, Array] | None = None, specs: Mapping[str, tuple[str, Sequence[int]]] | None = None
    ) -> None:
        self._tensors, self._specs = tensors, specs or {}
        self._has_answered = tensors is not None

    def note(self, tensors: Mapping[str, Array], *, first_row: bool) -> None:
        """Note the tensors of a run that succeeded; those of the first one are kept.

        Args:
            tensors: by input.
            first_row: keep the first row alone, since rows are independent.
        """
        if self._has_answered:
            return
        self._has_answered = True
        kept = {name: array[:1] if first_row else array for name, array in tensors.items()}
        if sum(array.nbytes for array in kept.values()) <= MAX_BYTES:
            self._tensors = {name: array.copy() for name, array in kept.items()}

    def fail_too(self, run: Run, outputs: Sequence[str]) -> bool:
        """Return whether the network fails on tensors that it should run on, which is not a client's fault.

        Where that is unknown, False: it has answered a request whose tensors were too large to keep, or there is
        nothing to try.
        """
        if self._tensors is not None:
            return not _runs(run, self._tensors, outputs)
        if self._has_answered:
            return False
        was_tried = False
        for tensors in _candidates(self._specs):
            if _runs(run, tensors, outputs):
                self._tensors = tensors
                return False
            was_tried = True
        return was_tried


def _runs(run: Run, tensors: Mapping[str, Array], outputs: Sequence[str]) -> bool:
    try:
        run(tensors, outputs)
    except (RunError, InvalidRequestError):
        return False
    return True


def _candidates(specs: Mapping[str, tuple[str, Sequence[int]]]) -> Iterable[dict[str, Array]]:
    """Yield zeros and empty strings for all inputs, with each of TRIED_SIZES in place of free sizes but the rows."""
    if not specs:
        return
    for size in TRIED_SIZES:
        shapes = {
            name: [*(1 if rows == -1 else rows for rows in shape[:1]), *(size if n == -1 else n for n in shape[1:])]
            for name, (_, shape) in specs.items()
        }
        if sum(int(np.prod(shape)) for shape in shapes.values()) > _MAX_TRIED_ELEMENTS:
            return
        yield {
            name: np.full(shapes[name], "" if datatype == "BYTES" else 0, DTYPES[datatype])
            for name, (datatype, _) in specs.items()
        }
