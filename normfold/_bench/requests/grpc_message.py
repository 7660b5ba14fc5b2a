"""A ModelInferRequest with raw tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from normfold._bench.model import Model
from normfold.service.codec.binary_tensors import array_to_bytes
from normfold.service.grpc.protocol.inference_pb2 import ModelInferRequest


def write_grpc_message(model: Model, tensors: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return the message's bytes: one `raw_input_contents` for each input."""
    version = "" if model.version is None else str(model.version)
    message = ModelInferRequest(model_name=model.name, model_version=version)
    for one in model.inputs:
        array = tensors[one.name]
        message.inputs.add(name=one.name, datatype=one.datatype, shape=array.shape)
        message.raw_input_contents.append(bytes(array_to_bytes(array)))
    return message.SerializeToString()
