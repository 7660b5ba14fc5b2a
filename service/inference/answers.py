"""What `:predict` returns for a row, by the manifest's card: a class, a mask, predicted values, or labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from normfold.contract.manifest import Manifest
from normfold.contract.outputs.task import MultiLabel, Regression
from normfold.service.codec.json_tensors import Array, to_json
from normfold.service.errors import RunError
from normfold.service.repository.loaded_model import Model


class Answer(NamedTuple):
    """The output that answers are made of, and the function that makes one of the values of a row."""

    output: str
    describe: Callable[[Model, str, Array], dict[str, Any]]


def find_answer(manifest: Manifest) -> Answer | None:
    """Return how a model answers; None if its card does not say what an output means."""
    if isinstance(manifest.card.task, Regression):
        return Answer(manifest.card.task.output, _describe_values)
    if isinstance(manifest.card.task, MultiLabel):
        return Answer(manifest.card.task.output, _describe_labels)
    logits, pixels = find_logits(manifest), find_pixel_logits(manifest)
    if logits is not None:
        return Answer(logits, _describe_class)
    return None if pixels is None else Answer(pixels, _describe_pixels)


def ranks_labels(manifest: Manifest) -> bool:
    """Return whether answers hold a probability for each label."""
    return isinstance(manifest.card.task, MultiLabel) or find_logits(manifest) is not None


def find_logits(manifest: Manifest) -> str | None:
    """Return the output of class logits, (rows, classes); None if the manifest has no labels or no such output."""
    return _find_logits(manifest, rank=2)


def find_pixel_logits(manifest: Manifest) -> str | None:
    """Return the output of logits of pixels, (rows, classes, height, width); None if one has class logits."""
    return _find_logits(manifest, rank=4) if find_logits(manifest) is None else None


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return exp(logit) / sum of exp(logits) along the last axis, in float64.

    The maximum is subtracted first, so that exp does not overflow.
    """
    wide = np.asarray(logits, np.float64)
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return 1 / (1 + exp(-logit)) in float64; no exponential is of a positive number, so that none overflows."""
    wide = np.asarray(logits, np.float64)
    power = np.exp(-np.abs(wide))
    return np.asarray(np.where(wide >= 0, 1.0, power) / (1 + power))


def _find_logits(manifest: Manifest, rank: int) -> str | None:
    shapes = {spec.name: spec.shape for spec in manifest.outputs}
    if manifest.card.labels is None:
        return None
    return next((name for name in manifest.card.logits if len(shapes[name]) == rank), None)


def _describe_class(model: Model, output: str, logits: Array) -> dict[str, Any]:
    labels = _labels(model, output, logits)
    probabilities = softmax(logits)
    index = int(probabilities.argmax())
    return {
        "label": labels[index],
        "index": index,
        "probability": float(probabilities[index]),
        "probabilities": probabilities.tolist(),
    }


def _describe_labels(model: Model, output: str, logits: Array) -> dict[str, Any]:
    """Return the labels from the threshold on, the most probable first, and the probabilities of all."""
    labels, task = _labels(model, output, logits), model.manifest.card.task
    assert isinstance(task, MultiLabel)
    probabilities = sigmoid(logits)
    given = [
        index for index in np.argsort(-probabilities, kind="stable").tolist() if probabilities[index] >= task.threshold
    ]
    return {
        "labels": [
            {"label": labels[index], "index": index, "probability": float(probabilities[index])} for index in given
        ],
        "probabilities": probabilities.tolist(),
    }


def _describe_values(model: Model, output: str, values: Array) -> dict[str, Any]:
    """Return each value with its name and unit."""
    task = model.manifest.card.task
    assert isinstance(task, Regression)
    if values.shape != (len(task.targets),):
        raise RunError(f"Output {output!r} has the shape {list(values.shape)} for {len(task.targets)} values.")
    to_json(values, output)  # NaN and Infinity are no JSON
    return {
        "values": [
            {"name": target.name, "value": value, "unit": target.unit}
            for target, value in zip(task.targets, values.tolist(), strict=True)
        ]
    }


def _describe_pixels(model: Model, output: str, logits: Array) -> dict[str, Any]:
    """Return the class index of each pixel; logits are (classes, height, width)."""
    labels = model.manifest.card.labels or ()
    if logits.shape[0] != len(labels):
        raise RunError(f"Output {output!r} has the shape {list(logits.shape)} for {len(labels)} labels.")
    to_json(logits, output)  # argmax would return the index of NaN
    return {"mask": logits.argmax(axis=0)}


def _labels(model: Model, output: str, logits: Array) -> tuple[str, ...]:
    """Return the labels of logits (labels,), which are finite."""
    labels = model.manifest.card.labels or ()
    if logits.shape != (len(labels),):
        raise RunError(f"Output {output!r} has the shape {list(logits.shape)} for {len(labels)} labels.")
    to_json(logits, output)  # NaN would become a probability of NaN
    return labels
