"""Random tensors in the shapes and datatypes that a model declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from normfold._bench.model import Model, ModelInput
from normfold.errors import ArgumentError
from normfold.service.codec.json_tensors import DTYPES

Array = npt.NDArray[Any]

MAX_TENSOR_BYTES = 2**30
"""Of one input; more is a mistake of a shape, as a rule."""


def find_shapes(model: Model, rows: int, given: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input: as given, else as declared, with `rows` in a free first axis.

    Args:
        model: with its inputs.
        rows: of a request.
        given: whole shapes by input, for free sizes after the first axis.

    Raises:
        ArgumentError: a given shape is of no input, or does not fit; a size is free and not given; no input has `rows`
            rows.
    """
    names = [one.name for one in model.inputs]
    for name in given:
        if name not in names:
            raise ArgumentError(f"`shape` names {name!r}; the inputs of {model.name!r} are {_listed(names)}.")
    shapes = {one.name: _shape(one, rows, given.get(one.name)) for one in model.inputs}
    if rows not in (1, *(shape[0] for shape in shapes.values() if shape)):
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "none"
        raise ArgumentError(f"`rows` is {rows}, but no input has so many; the shapes of inputs are: {found}.")
    return shapes


def _shape(declared: ModelInput, rows: int, given: Sequence[int] | None) -> tuple[int, ...]:
    shape = declared.shape
    if given is not None:
        fits = len(given) == len(shape) and all(
            size >= 0 and free in (-1, size) for size, free in zip(given, shape, strict=True)
        )
        if not fits:
            raise ArgumentError(
                f"`shape` gives {list(given)} for input {declared.name!r}, whose shape is {list(shape)} (-1: any size)."
            )
        return tuple(given)
    if -1 in shape[1:]:
        example = "x".join(str(rows if axis == 0 else size if size >= 0 else 8) for axis, size in enumerate(shape))
        raise ArgumentError(
            f"Input {declared.name!r} has the shape {list(shape)}; give its free sizes by `shape`, for example "
            f"{declared.name}={example}."
        )
    return tuple(rows if size == -1 else size for size in shape)


def rows_of(shapes: Mapping[str, Sequence[int]]) -> int:
    """Return the size of the first axis, if it is the same for all inputs that have one; otherwise 1."""
    first = {shape[0] for shape in shapes.values() if shape}
    return first.pop() if len(first) == 1 else 1


def fixed_rows(model: Model) -> int:
    """Return the size of the first axis, if no input has a free one, and it is the same for all; otherwise 0."""
    first = {one.shape[0] for one in model.inputs if one.shape}
    return max(0, first.pop()) if len(first) == 1 else 0


def make_inputs(model: Model, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> dict[str, Array]:
    """Return random tensors for one request.

    Floating-point values are of a standard normal distribution, as standardised inputs are; UINT8 of all values, as
    pixels are; other integers, which may be indices, and texts are 0 and 1; BOOL is false and true.

    Args:
        model: with its inputs.
        shapes: by input.
        rng: the source of randomness.

    Raises:
        ArgumentError: a datatype is not of the protocol, or a tensor is over MAX_TENSOR_BYTES.
    """
    return {one.name: _make_tensor(one, shapes[one.name], rng) for one in model.inputs}


def _make_tensor(declared: ModelInput, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    dtype = DTYPES.get(declared.datatype)
    if dtype is None:
        raise ArgumentError(
            f"Input {declared.name!r} has the datatype {declared.datatype!r}, which is none of {_listed(DTYPES)}."
        )
    if prod(shape) * dtype.itemsize > MAX_TENSOR_BYTES:
        raise ArgumentError(f"Input {declared.name!r} of shape {list(shape)} is over {MAX_TENSOR_BYTES // 2**20} MiB.")
    if dtype.kind == "f":
        return rng.standard_normal(shape, np.float32).astype(dtype)
    if dtype.kind == "O":
        return rng.integers(0, 2, shape).astype("U1").astype(object)
    return np.asarray(rng.integers(0, 256 if declared.datatype == "UINT8" else 2, shape)).astype(dtype)


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"
