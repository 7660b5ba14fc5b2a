"""Inputs and answers that `Client` and `load_repository` have in common."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from normfold._shared.argument_checks import PATH, check, describe
from normfold._shared.paths import AnyPath
from normfold.errors import ArgumentError

ImageInput = bytes | AnyPath | npt.NDArray[np.uint8]
"""The bytes of a PNG or JPEG file, its path, or pixels: uint8, (height, width) or (height, width, 3)."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The class of one row.

    Attributes:
        label: of the most probable class.
        index: its number.
        probability: its softmax probability, 0 to 1.
        probabilities: of all classes, (classes,), float64, in the order of the labels.
    """

    label: str
    index: int
    probability: float
    probabilities: npt.NDArray[np.float64]

    def __repr__(self) -> str:
        return f"Prediction({self.label!r}, {self.probability:.4f})"


@dataclass(frozen=True)
class ClassProbability:
    """One class of an image: its label, its number, and its softmax probability, 0 to 1."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, eq=False)
class LabelsPrediction:
    """The labels of one row that do not exclude each other.

    Attributes:
        labels: those from the model's threshold on, the most probable first.
        probabilities: of all labels, (labels,), float64, in their order.
    """

    labels: tuple[ClassProbability, ...]
    probabilities: npt.NDArray[np.float64]

    def __repr__(self) -> str:
        return f"LabelsPrediction({', '.join(f'{one.label!r} {one.probability:.4f}' for one in self.labels)})"


@dataclass(frozen=True)
class PredictedValue:
    """A value that a regression predicts: its name, the value, and its unit, None if it is not known."""

    name: str
    value: float
    unit: str | None


def instances_json(rows: Any) -> bytes:
    """Return the body of `:predict` for rows of raw inputs.

    Raises:
        ArgumentError: a row holds what JSON cannot.
    """
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise ArgumentError(f"`rows` must be an array or a list, one raw input for each row, not {describe(rows)}.")
    instances = np.ascontiguousarray(rows) if isinstance(rows, np.ndarray) else list(rows)
    try:
        return orjson.dumps({"instances": instances}, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise ArgumentError(f"`rows` cannot be written as JSON: {error}.") from None


def warn_of_notes(notes: Iterable[Mapping[str, Any]]) -> None:
    """Warn of values of a table's rows that the model knows nothing about, at the caller's caller.

    Args:
        notes: as the service's answer has them.
    """
    for one in notes:
        warnings.warn(f"Row {one['instance']}: {one['note']}", UserWarning, stacklevel=3)


def to_prediction(answer: Any) -> Any:
    """Return what a model says of one row.

    Returns:
        A Prediction of a classifier, a LabelsPrediction where labels do not exclude each other, a tuple of
        PredictedValue of a regression; of a model that gives a class to each pixel their numbers, (height, width),
        int64; of any other model the value of its one output, or the values of several by name.
    """
    if isinstance(answer, Mapping):
        if answer.keys() == {"label", "index", "probability", "probabilities"}:
            probabilities = np.asarray(answer["probabilities"], np.float64)
            return Prediction(answer["label"], answer["index"], answer["probability"], probabilities)
        if answer.keys() == {"labels", "probabilities"}:
            labels = tuple(ClassProbability(**one) for one in answer["labels"])
            return LabelsPrediction(labels, np.asarray(answer["probabilities"], np.float64))
        if answer.keys() == {"values"} and all(isinstance(one, Mapping) for one in answer["values"]):
            return tuple(PredictedValue(**one) for one in answer["values"])
        if answer.keys() == {"mask"}:
            return np.asarray(answer["mask"], np.int64)
        return {name: np.asarray(value) for name, value in answer.items()}
    return np.asarray(answer)


def image_bytes(image: ImageInput) -> bytes:
    """Return the bytes of an image's file; pixels are written as PNG.

    Raises:
        ArgumentError: the file cannot be read, or the array is not an image.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        check(PATH, image=image)
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise ArgumentError(f"The image {str(image)!r} cannot be read: {error.strerror}.") from None
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise ArgumentError(
            f"An array of dtype {array.dtype} and shape {array.shape} is not an image; `image` takes uint8 of shape "
            "(height, width) or (height, width, 3), the bytes of a file, or its path."
        )
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def to_tensor(name: str, array: Any) -> npt.NDArray[Any]:
    """Return an array as tensors are sent: texts as objects, numbers in this machine's byte order.

    Raises:
        ArgumentError: it is no array, such as rows of several lengths.
    """
    try:
        tensor = np.asarray(array)
    except ValueError as error:
        raise ArgumentError(f"Input {name!r} of `inputs` is not an array: {error}.") from None
    return tensor.astype(object if tensor.dtype.kind == "U" else tensor.dtype.newbyteorder("="), copy=False)
