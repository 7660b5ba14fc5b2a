"""Read the labels of samples: the array `y` of an .npz file, as numbers of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from normfold.export.arrays import Tensor
from normfold.export.errors import SampleError
from normfold.export.verify.inputs import read_arrays

LABELS = "y"
"""The array of labels, named as training data name it."""

_MAX_WHOLE_FLOAT = 2.0**53
_MAX_NAMES = 5
"""Names of classes that a sentence lists."""


def read_labels(
    path: Path, count: int, names: Sequence[str] | None = None, *, are_values: bool = False
) -> Tensor | None:
    """Return the labels of samples; None where the file has none.

    Args:
        path: of the samples.
        count: their number.
        names: of the classes, in the network's order, where a card has them: labels may be these too.
        are_values: they are values that the network predicts, of any size.

    Raises:
        ModelInputError: the file cannot be read.
        SampleError: there are more or fewer labels than samples, or they are neither whole numbers nor such names.
    """
    if path.suffix.lower() != ".npz" or path.is_dir():
        return None
    labels = read_arrays(path).get(LABELS)
    if labels is None:
        return None
    if labels.shape[:1] != (count,):
        holds = f"{str(path)!r} holds {count} sample{'s' * (count != 1)}"
        raise SampleError(f"{holds} and labels {LABELS!r} of shape {list(labels.shape)}.")
    kind = labels.dtype.kind
    if kind in "iu":
        return labels
    if kind == "b":
        return labels.astype(np.int64)
    if kind == "f" and are_values:
        return labels
    if kind == "f":
        return _whole_numbers(path, labels)
    if kind in "US":
        return _numbers_of_names(path, labels, names)
    raise SampleError(
        f"The labels {LABELS!r} of {str(path)!r} are {labels.dtype}; they must be whole numbers, or names of classes."
    )


def _whole_numbers(path: Path, labels: Tensor) -> Tensor:
    numbers = labels.astype(np.float64)
    wrong = np.argwhere(~((numbers == np.floor(numbers)) & (np.abs(numbers) <= _MAX_WHOLE_FLOAT)))
    if len(wrong):
        raise SampleError(
            f"Sample {wrong[0][0]} of {str(path)!r}, counted from 0, has the label {labels[tuple(wrong[0])]:g}; labels "
            f"{LABELS!r} must be whole numbers. Take {LABELS!r} out of the file to quantise without labels."
        )
    return labels.astype(np.int64)


def _numbers_of_names(path: Path, labels: Tensor, names: Sequence[str] | None) -> Tensor:
    """Return the place of each label among the names of the classes."""
    if not names:
        raise SampleError(
            f"The labels {LABELS!r} of {str(path)!r} are text, and no card names the classes ('labels'); give the "
            "numbers of the classes."
        )
    texts = [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in labels.ravel().tolist()]
    places = {name: place for place, name in enumerate(names)}
    wrong = next((place for place, text in enumerate(texts) if text not in places), None)
    if wrong is not None:
        row = wrong * len(labels) // len(texts)
        listed = ", ".join(map(repr, names[:_MAX_NAMES])) + (", …" if len(names) > _MAX_NAMES else "")
        raise SampleError(
            f"Sample {row} of {str(path)!r}, counted from 0, has the label {texts[wrong]!r}; the card's labels are "
            f"{listed}."
        )
    return np.array([places[text] for text in texts], np.int64).reshape(labels.shape)
