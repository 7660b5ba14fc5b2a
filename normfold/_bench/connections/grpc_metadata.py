"""A model's inputs, asked for by gRPC."""

from __future__ import annotations

import grpc

from normfold._bench.connections.grpc_connection import call_metadata, channel_credentials
from normfold._bench.model import ModelInput
from normfold._bench.target import Target
from normfold.errors import ClientError, UnreachableError
from normfold.service.grpc.protocol.inference_pb2 import ModelMetadataRequest, ModelMetadataResponse

METADATA = "/inference.GRPCInferenceService/ModelMetadata"


def read_inputs(target: Target, name: str, version: int | None, timeout_s: float) -> tuple[ModelInput, ...]:
    """Ask for a model's inputs.

    Raises:
        UnreachableError: the service does not answer.
        ClientError: it answers with an error.
    """
    request = ModelMetadataRequest(name=name, version="" if version is None else str(version))
    channel = (
        grpc.secure_channel(target.authority, channel_credentials(target))
        if target.is_encrypted
        else grpc.insecure_channel(target.authority)
    )
    with channel:
        ask = channel.unary_unary(METADATA, ModelMetadataRequest.SerializeToString, ModelMetadataResponse.FromString)
        try:
            found = ask(request, metadata=call_metadata(target), timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise UnreachableError(target.url, f"{error.details()}.") from None
            raise ClientError(f"{error.details()} ({error.code().name})") from None
    return tuple(ModelInput(one.name, one.datatype, tuple(one.shape)) for one in found.inputs)
