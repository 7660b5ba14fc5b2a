"""Predictions for people: raw inputs in, labels with probabilities out, as the manifest's card says.

    instances -> decode, standardise (contract.preprocess) -> stack -> network -> softmax of the logits -> predictions

A model without preprocessing takes tensors as instances; one without labels and logits answers its outputs' values; one
whose logits are of each pixel answers the class of each.
Rows of a model that is not batchable, or whose row axis is fixed at 1, run one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from normfold.contract.errors import RawInputError
from normfold.contract.manifest import Manifest, TensorSpec
from normfold.contract.preprocess import ImagePreprocessing, Preprocessing
from normfold.service.batching.client import Client
from normfold.service.codec.json_tensors import DTYPES, Array, array_from_nested, to_json
from normfold.service.codec.signature import shape_matches
from normfold.service.errors import InvalidRequestError, RunError, UnsuitableModelError
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.repository.loaded_model import Model


def read_instances(record: Mapping[str, Any], manifest: Manifest) -> list[dict[str, Array]]:
    """Read {"instances": [...]} and preprocess each instance.

    Returns:
        For each instance its tensors by input name, without the axis of rows.

    Raises:
        InvalidRequestError: no list of instances, or one that does not fit the model.
        RawInputError: one that does not fit the model's preprocessing.
        UnsuitableModelError: the model's rows cannot be given one by one.
    """
    instances = record.get("instances")
    if not isinstance(instances, list) or not instances:
        raise InvalidRequestError("The body has no list 'instances' with at least one instance.")
    for spec in manifest.inputs:
        if not spec.shape or spec.shape[0] not in (-1, 1):
            reason = f"takes {spec.name!r} as {list(spec.shape)}, which is not one row after another; use infer."
            raise UnsuitableModelError(manifest.name, reason)
    return [_read_instance(instance, f"Instance {index}", manifest) for index, instance in enumerate(instances)]


def read_picture(data: bytes, model: Model, max_pixels: int) -> list[dict[str, Array]]:
    """Decode a PNG or JPEG and preprocess it, as `read_instances` does.

    Raises:
        UnsuitableModelError: the model does not take pictures, or does not give classes.
        RawInputError: the bytes are no such picture.
    """
    preprocessing = _preprocessing(model.manifest)
    if not isinstance(preprocessing, ImagePreprocessing):
        raise UnsuitableModelError(model.name, "does not take pictures: its manifest has no preprocessing for them.")
    if find_pixel_logits(model.manifest) is not None:
        raise UnsuitableModelError(
            model.name, "gives a class to each pixel, not one to a picture; use :predict or infer."
        )
    if find_logits(model.manifest) is None:
        raise UnsuitableModelError(model.name, "does not give classes: its manifest has no labels and logits.")
    if not data:
        raise RawInputError("The body is empty; send the bytes of a PNG or JPEG file.")
    raw = preprocessing.decode_image(data, max_pixels)
    return [_to_tensor(preprocessing, raw, model.manifest)]


async def predict(
    model: Model,
    instances: Sequence[Mapping[str, Array]],
    phases: RequestTrace | None = None,
    client: Client | None = None,
) -> list[Any]:
    """Run instances through the network.

    Args:
        model: the network.
        instances: for each its tensors by input name, without the axis of rows.
        phases: of the request, which get the times of queue and run.
        client: waits for the results; a disconnect cancels them.

    Returns:
        For each instance {"label", "index", "probability", "probabilities"} if the manifest has labels and logits, or
        {"mask"}, the number of each pixel's class, if those logits are of pixels;
        otherwise the value of the one output, or the values of several by name.

    Raises:
        InvalidRequestError: instances differ in shape.
        RunError: the network failed, or gave another number of logits than there are labels.
        UnwritableOutputError: an output holds NaN or Infinity.
        ClientDisconnectedError: the client is gone.
    """
    specs = model.manifest.outputs
    logits, pixels = find_logits(model.manifest), find_pixel_logits(model.manifest)
    wanted = logits or pixels
    outputs = [wanted] if wanted is not None else [spec.name for spec in specs]
    rows: list[dict[str, Array]] = []
    for batch in _batches(model.manifest, instances):
        rows += _cut(batch, await model.infer(batch, outputs, phases, client))
    if logits is not None:
        return [_describe_class(model, logits, row[logits]) for row in rows]
    if pixels is not None:
        return [_describe_pixels(model, pixels, row[pixels]) for row in rows]
    values = [{name: _plain(array, name) for name, array in row.items()} for row in rows]
    return [value[specs[0].name] for value in values] if len(specs) == 1 else values


def rank_classes(prediction: Mapping[str, Any], labels: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Return the `top` most probable classes of a prediction, highest first; equal ones in the labels' order."""
    probabilities = prediction["probabilities"]
    order = sorted(range(len(labels)), key=lambda index: -probabilities[index])[:top]
    return [{"label": labels[index], "index": index, "probability": probabilities[index]} for index in order]


def find_logits(manifest: Manifest) -> str | None:
    """Return the output of class logits, (rows, classes), or None if the manifest knows no labels or no such output."""
    return _find_logits(manifest, rank=2)


def find_pixel_logits(manifest: Manifest) -> str | None:
    """Return the output of logits of pixels, (rows, classes, height, width), if there is none of class logits."""
    return _find_logits(manifest, rank=4) if find_logits(manifest) is None else None


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return exp(logit) / sum of exp(logits) along the last axis, in float64.

    The largest logit is subtracted first, so that none overflows.
    """
    wide = np.asarray(logits, np.float64)
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _find_logits(manifest: Manifest, rank: int) -> str | None:
    shapes = {spec.name: spec.shape for spec in manifest.outputs}
    if manifest.card.labels is None:
        return None
    return next((name for name in manifest.card.logits if len(shapes[name]) == rank), None)


def _read_instance(instance: Any, what: str, manifest: Manifest) -> dict[str, Array]:
    inputs, preprocessing = manifest.inputs, _preprocessing(manifest)
    if preprocessing is not None:
        try:
            return _to_tensor(preprocessing, preprocessing.decode(instance), manifest)
        except RawInputError as error:
            raise RawInputError(f"{what}: {error}") from None
    if len(inputs) == 1:
        return {inputs[0].name: _read_tensor(instance, what, inputs[0])}
    names = {spec.name for spec in inputs}
    if not isinstance(instance, dict) or instance.keys() != names:
        raise InvalidRequestError(f"{what} is not an object with exactly the inputs {sorted(names)}.")
    return {spec.name: _read_tensor(instance[spec.name], f"{what}, input {spec.name!r}", spec) for spec in inputs}


def _preprocessing(manifest: Manifest) -> Preprocessing | None:
    """Return the card's preprocessing, which is of one input: with several, instances are tensors."""
    return manifest.card.preprocessing if len(manifest.inputs) == 1 else None


def _to_tensor(preprocessing: Preprocessing, raw: npt.NDArray[Any], manifest: Manifest) -> dict[str, Array]:
    """Return the network's tensor by its name: standardised, or pixels where the network does that itself."""
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
    """Stack instances into one batch, or into batches of one row where rows cannot run together."""
    fixed = any(spec.shape[0] != -1 for spec in manifest.inputs)
    groups = [instances] if manifest.batchable and not fixed else [[instance] for instance in instances]
    return [{name: _stack([one[name] for one in group]) for name in group[0]} for group in groups]


def _stack(arrays: Sequence[Array]) -> Array:
    if len({array.shape for array in arrays}) > 1:
        raise InvalidRequestError("The instances differ in shape; send those of one shape together.")
    return np.stack(arrays)


def _cut(batch: Mapping[str, Array], results: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Cut a batch's outputs into rows."""
    rows = next(iter(batch.values())).shape[0]
    if rows == 1:  # a model that is not batchable may have outputs without an axis of rows
        return [{name: array[0] if array.shape[:1] == (1,) else array for name, array in results.items()}]
    return [{name: array[index] for name, array in results.items()} for index in range(rows)]


def _describe_class(model: Model, output: str, logits: Array) -> dict[str, Any]:
    labels = model.manifest.card.labels or ()
    if logits.shape != (len(labels),):
        raise RunError(f"Output {output!r} has the shape {list(logits.shape)} for {len(labels)} labels.")
    to_json(logits, output)  # NaN would become a probability of NaN
    probabilities = softmax(logits)
    index = int(probabilities.argmax())
    return {
        "label": labels[index],
        "index": index,
        "probability": float(probabilities[index]),
        "probabilities": probabilities.tolist(),
    }


def _describe_pixels(model: Model, output: str, logits: Array) -> dict[str, Any]:
    """Return the class of each pixel, by number; logits are (classes, height, width)."""
    labels = model.manifest.card.labels or ()
    if logits.shape[0] != len(labels):
        raise RunError(f"Output {output!r} has the shape {list(logits.shape)} for {len(labels)} labels.")
    to_json(logits, output)  # NaN would be the largest of all
    return {"mask": logits.argmax(axis=0)}


def _plain(array: Array, output: str) -> Any:
    """Return an output's values for JSON; FP16 as numbers too, since people read them and no client decodes them."""
    return to_json(np.asarray(array), output)
