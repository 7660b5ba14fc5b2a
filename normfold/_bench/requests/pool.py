"""The requests that a load sends in turns, as bytes that are made before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from normfold._bench.model import Model
from normfold._bench.requests.messages import Format, write_message
from normfold._bench.requests.random_inputs import find_shapes, fixed_rows, make_inputs, rows_of
from normfold._bench.requests.samples import read_samples
from normfold._bench.target import Target
from normfold._shared.argument_checks import Kind, check

MAX_MESSAGES = 16
"""Different requests, so that no cache on the way has the answer."""

MAX_BYTES = 64 * 2**20
"""Of all messages together, as soon as there is one."""

_SHAPE = Kind(
    "a list of whole numbers for each input",
    lambda value: isinstance(value, Sequence) and all(isinstance(size, int) for size in value),
)


def make_messages(
    model: Model,
    target: Target,
    form: Format,
    rows: int,
    shapes: Mapping[str, Sequence[int]],
    samples: Path | None,
    seed: int,
) -> tuple[list[bytes], int]:
    """Return the bytes of requests, and the rows of each.

    Args:
        model: with its inputs.
        target: the service.
        form: of tensors in HTTP.
        rows: of a request, in a free first axis.
        shapes: whole shapes by input, for free sizes.
        samples: file to take tensors from; None for random ones.
        seed: of random tensors.

    Raises:
        ArgumentError: shapes, rows or samples do not fit the model.
    """
    messages: list[bytes] = []
    tensors: Iterator[Mapping[str, npt.NDArray[Any]]]
    if samples is not None:
        rows = fixed_rows(model) or rows if rows == 1 else rows
        tensors = iter(read_samples(samples, model, rows, MAX_MESSAGES))
    else:
        for given in shapes.values():
            check(_SHAPE, shape=given)
        found = find_shapes(model, rows, shapes)
        rows, rng = rows_of(found), np.random.default_rng(seed)
        tensors = (make_inputs(model, found, rng) for _ in range(MAX_MESSAGES))
    for one in tensors:
        message = write_message(model, target, one, form)
        if messages and len(message) * (len(messages) + 1) > MAX_BYTES:
            break
        messages.append(message)
    return messages, rows
