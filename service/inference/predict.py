"""Predictions from raw inputs, as the manifest's card describes them: preprocessing, and what the outputs mean.

    instances ─▶ decode, standardise (contract.preprocess) ─▶ stack ─▶ network ─▶ answers ─▶ predictions

Instances of a model without preprocessing are tensors. The prediction of a model whose card says nothing of its outputs
is their values. Rows of a model that is not batchable,
or whose row axis is fixed at 1, run one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from normfold.contract.errors import RawInputError
from normfold.contract.manifest import Manifest, TensorSpec
from normfold.contract.preprocess import ImagePreprocessing, Preprocessing
from normfold.service.batching.request_connection import RequestConnection
from normfold.service.codec.json_tensors import DTYPES, Array, array_from_nested, to_json
from normfold.service.codec.signature import shape_matches
from normfold.service.codec.table_rows import RowNotes
from normfold.service.errors import InvalidRequestError, UnsuitableModelError
from normfold.service.inference.answers import find_answer, find_pixel_logits, ranks_labels
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.repository.loaded_model import Model

Run = tuple[Mapping[str, Array], Mapping[str, Array]]
"""The tensors of one run by input, and its results by output."""

Answered = Callable[[Sequence[Run]], None]
"""Takes the runs of a request that is answered."""


def read_instances(
    record: Mapping[str, Any], manifest: Manifest, notes: RowNotes | None = None
) -> list[dict[str, Array]]:
    """Read {"instances": [...]} and preprocess each instance.

    Args:
        record: the request.
        manifest: of the model.
        notes: gets what is missing or unknown in rows of a table.

    Returns:
        The tensors of each instance by input, without the row axis.

    Raises:
        InvalidRequestError: there is no list of instances, or an instance does not fit the model.
        RawInputError: an instance does not fit the model's preprocessing.
        UnsuitableModelError: an input of the model has no row axis, or a fixed number of rows other than 1.
    """
    instances = record.get("instances")
    if not isinstance(instances, list) or not instances:
        raise InvalidRequestError("The body has no list 'instances' with at least one instance.")
    for spec in manifest.inputs:
        if not spec.shape or spec.shape[0] not in (-1, 1):
            reason = f"takes {spec.name!r} as {list(spec.shape)}, which is not one row after another; use infer."
            raise UnsuitableModelError(manifest.name, reason)
    notes = notes or RowNotes()
    return [_read_instance(instance, index, manifest, notes) for index, instance in enumerate(instances)]


def read_image(data: bytes, model: Model, max_pixels: int) -> list[dict[str, Array]]:
    """Decode a PNG or JPEG image and preprocess it.

    Args:
        data: the file's bytes.
        model: an image classifier.
        max_pixels: limit on the image, before it is decoded.

    Returns:
        The tensor of one instance by input, as `read_instances` returns it.

    Raises:
        UnsuitableModelError: the model does not take images, or does not return classes.
        RawInputError: the bytes are not such an image, or the image has too many pixels.
    """
    preprocessing = _preprocessing(model.manifest)
    if not isinstance(preprocessing, ImagePreprocessing):
        raise UnsuitableModelError(model.name, "does not take images: its manifest has no preprocessing for them.")
    if not ranks_labels(model.manifest) and find_pixel_logits(model.manifest) is not None:
        raise UnsuitableModelError(model.name, "classifies pixels, not images; use :predict or infer.")
    if model.manifest.card.task is not None and model.manifest.card.task.kind == "regression":
        raise UnsuitableModelError(model.name, "predicts values, not classes; use :predict or infer.")
    if not ranks_labels(model.manifest):
        raise UnsuitableModelError(model.name, "does not return classes: its manifest has no labels and logits.")
    if not data:
        raise RawInputError("The body is empty; send the bytes of a PNG or JPEG file.")
    raw = preprocessing.decode_image(data, max_pixels)
    return [_to_tensor(preprocessing, raw, model.manifest)]


async def predict(
    model: Model,
    instances: Sequence[Mapping[str, Array]],
    trace: RequestTrace | None = None,
    connection: RequestConnection | None = None,
    answered: Answered = lambda *_: None,
) -> list[Any]:
    """Run a model on instances.

    Args:
        model: the model.
        instances: the tensors of each by input, without the row axis.
        trace: the request's; gets the times of queue and run.
        connection: on which the client waits for the results; a disconnect cancels them.
        answered: called with all runs once the predictions are made.

    Returns:
        For each instance {"label", "index", "probability", "probabilities"} if the manifest has labels and logits;
        {"mask"}, the class index of each pixel, if the logits are of pixels; {"values"}, each with its name and unit,
        of a regression; {"labels", "probabilities"} of labels that do not exclude each other; otherwise the value of
        the only output, or the values of several outputs by name.

    Raises:
        InvalidRequestError: the instances differ in shape.
        QueueFullError, DeadlineError, UnloadedError: the model could not run them in time.
        RunError: the network failed, or the number of values differs from that of the card.
        UnwritableOutputError: an output has NaN or Infinity.
        ClientDisconnectedError: the client disconnected.
    """
    specs = model.manifest.outputs
    answer = find_answer(model.manifest)
    outputs = [spec.name for spec in specs] if answer is None else [answer.output]
    rows: list[dict[str, Array]] = []
    runs: list[Run] = []
    for batch in _batches(model.manifest, instances):
        results = await model.infer(batch, outputs, trace, connection)
        runs.append((batch, results))
        rows += _split_rows(batch, results)
    if answer is not None:
        predictions: list[Any] = [answer.describe(model, answer.output, row[answer.output]) for row in rows]
    else:
        values = [{name: _to_values(array, name) for name, array in row.items()} for row in rows]
        predictions = [value[specs[0].name] for value in values] if len(specs) == 1 else list(values)
    answered(runs)
    return predictions


def rank_classes(prediction: Mapping[str, Any], labels: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Return the `top` most probable classes of a prediction, descending; equal ones in the labels' order."""
    probabilities = prediction["probabilities"]
    order = sorted(range(len(labels)), key=lambda index: -probabilities[index])[:top]
    return [{"label": labels[index], "index": index, "probability": probabilities[index]} for index in order]


def _read_instance(instance: Any, index: int, manifest: Manifest, notes: RowNotes) -> dict[str, Array]:
    inputs, preprocessing, what = manifest.inputs, _preprocessing(manifest), f"Instance {index}"
    if preprocessing is not None:
        try:
            return _to_tensor(preprocessing, notes.decode(preprocessing, instance, index), manifest)
        except RawInputError as error:
            raise RawInputError(f"{what}: {error}") from None
    if len(inputs) == 1:
        return {inputs[0].name: _read_tensor(instance, what, inputs[0])}
    names = {spec.name for spec in inputs}
    if not isinstance(instance, dict) or instance.keys() != names:
        raise InvalidRequestError(f"{what} is not an object with exactly the inputs {sorted(names)}.")
    return {spec.name: _read_tensor(instance[spec.name], f"{what}, input {spec.name!r}", spec) for spec in inputs}


def _preprocessing(manifest: Manifest) -> Preprocessing | None:
    """Return the preprocessing of the card, which is for a single input; with several, instances are tensors."""
    return manifest.card.preprocessing if len(manifest.inputs) == 1 else None


def _to_tensor(preprocessing: Preprocessing, raw: npt.NDArray[Any], manifest: Manifest) -> dict[str, Array]:
    """Return the tensor of the only input: standardised, or pixels if the network standardises them itself."""
    (spec,) = manifest.inputs
    if manifest.takes_pixels and isinstance(preprocessing, ImagePreprocessing):
        return {spec.name: preprocessing.to_pixels(raw)}
    with np.errstate(over="ignore"):
        tensor = preprocessing.standardise(raw).astype(DTYPES[spec.datatype])
    if not np.isfinite(tensor).all():
        raise RawInputError(f"A value is so far from the training data that it does not fit {spec.datatype}.")
    return {spec.name: tensor}


def _read_tensor(value: Any, what: str, spec: TensorSpec) -> Array:
    array = array_from_nested(value, spec.datatype, what)
    if not shape_matches(array.shape, spec.shape[1:]):
        raise InvalidRequestError(f"{what} has the shape {list(array.shape)}; the model takes {list(spec.shape[1:])}.")
    return array


def _batches(manifest: Manifest, instances: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Stack instances into one batch, or into batches of one row if rows cannot run together."""
    fixed = any(spec.shape[0] != -1 for spec in manifest.inputs)
    groups = [instances] if manifest.batchable and not fixed else [[instance] for instance in instances]
    return [{name: _stack([one[name] for one in group]) for name in group[0]} for group in groups]


def _stack(arrays: Sequence[Array]) -> Array:
    if len({array.shape for array in arrays}) > 1:
        raise InvalidRequestError("The instances differ in shape; send those of one shape together.")
    return np.stack(arrays)


def _split_rows(batch: Mapping[str, Array], results: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Return the outputs of each row of a batch."""
    rows = next(iter(batch.values())).shape[0]
    if rows == 1:  # a model that is not batchable may have outputs without a row axis
        return [{name: array[0] if array.shape[:1] == (1,) else array for name, array in results.items()}]
    return [{name: array[index] for name, array in results.items()} for index in range(rows)]


def _to_values(array: Array, output: str) -> Any:
    """Return the values of an output for JSON, FP16 as numbers too: unlike infer, no client has to decode them."""
    return to_json(np.asarray(array), output)
