"""From results to a ModelInferResponse, serialized.

Protobuf's messages are joined of their serialized fields: what repeats from response to response is kept, and raw
tensors are not copied into a message first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from normfold.contract.manifest import Manifest
from normfold.service.codec.binary_tensors import Piece, array_to_bytes
from normfold.service.codec.json_tensors import Array
from normfold.service.codec.response import InferResponse, classify
from normfold.service.codec.signature import OutputRequest
from normfold.service.grpc.protocol.fields import field_head
from normfold.service.grpc.protocol.inference_pb2 import InferTensorContents, ModelInferResponse
from normfold.service.grpc.request import CONTENTS

_ID = ModelInferResponse.ID_FIELD_NUMBER
_OUTPUTS = ModelInferResponse.OUTPUTS_FIELD_NUMBER
_RAW_OUTPUT_CONTENTS = ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER


def encode_message(
    manifest: Manifest,
    outputs: Sequence[OutputRequest],
    results: Mapping[str, Array],
    client_request_id: str | None = None,
) -> InferResponse:
    """Encode a ModelInferResponse; its tensors are raw if one output is asked for so, else typed.

    Args:
        manifest: the model's.
        outputs: the requested ones, in order.
        results: by output.
        client_request_id: the request's id, if it has one.

    Raises:
        UnwritableOutputError: an output that is to be classified holds NaN or Infinity.
    """
    is_raw = any(output.binary for output in outputs)
    datatypes = {spec.name: spec.datatype for spec in manifest.outputs}
    pieces: list[Piece] = [_begin(manifest.name, manifest.version)]
    if client_request_id is not None:
        text = client_request_id.encode()
        pieces += (field_head(_ID, len(text)), text)
    tensors: list[Piece] = []
    for output in outputs:
        name = output.name
        array, datatype = results[name], datatypes[name]
        if output.classes is not None:
            array, datatype = classify(array, output, manifest), "BYTES"
        if is_raw:
            data = array_to_bytes(array)
            pieces.append(_describe(name, datatype, array.shape))
            tensors += (field_head(_RAW_OUTPUT_CONTENTS, len(data)), data)
        else:
            text = _encode_typed(name, datatype, array)
            pieces += (field_head(_OUTPUTS, len(text)), text)
    return InferResponse((*pieces, *tensors))


@lru_cache(maxsize=1024)
def _begin(name: str, version: int) -> bytes:
    """Return the fields that all responses of a version have."""
    return ModelInferResponse(model_name=name, model_version=str(version)).SerializeToString()


@lru_cache(maxsize=1024)
def _describe(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """Return the field of a raw output."""
    output = ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape).SerializeToString()
    return field_head(_OUTPUTS, len(output)) + output


def _encode_typed(name: str, datatype: str, array: Array) -> bytes:
    values = array.reshape(-1).tolist()
    if datatype == "BYTES":
        values = [value.encode() if isinstance(value, str) else value for value in values]
    contents = InferTensorContents(**{CONTENTS[datatype]: values})
    output = ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=array.shape, contents=contents)
    return output.SerializeToString()
