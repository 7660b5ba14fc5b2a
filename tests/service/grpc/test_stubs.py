"""The stubs of the gRPC protocol: made of the .proto file, equal to the protocol's facts, beside other stubs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from normfold.service.grpc.protocol import inference_pb2
from scripts.grpc_stubs import FOLDER, make_stubs

LOAD_BOTH = """
import sys
from importlib import import_module
ours, theirs = "normfold.service.grpc.protocol.inference_pb2", "tritonclient.grpc.service_pb2"
for name in sorted((ours, theirs), reverse={reverse}):
    import_module(name)
sent = sys.modules[ours].ModelInferRequest(model_name="digits", raw_input_contents=[b"1"])
received = sys.modules[theirs].ModelInferRequest.FromString(sent.SerializeToString())
sys.stdout.write(received.model_name)
"""


def test_stubs_are_those_of_the_proto_file() -> None:
    for name, text in make_stubs().items():
        assert (FOLDER / name).read_text() == text, f"{name} is old; make grpc-stubs"


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
def test_stubs_load_beside_those_of_tritonclient(reverse: bool) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOAD_BOTH.format(reverse=reverse)], capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr) == ("digits", "")


def facts(field: FieldDescriptor) -> tuple[object, ...]:
    """Return number, type and names of what a field refers to."""
    refers_to = field.message_type or field.enum_type
    oneof = field.containing_oneof and field.containing_oneof.name
    return field.number, field.type, field.is_repeated, refers_to and refers_to.full_name, oneof


def nested(message: Descriptor) -> list[Descriptor]:
    """Return a message and those that it defines."""
    return [message, *(found for inner in message.nested_types for found in nested(inner))]


def test_stubs_have_the_facts_of_the_protocol() -> None:
    theirs = {
        message.full_name: message
        for module in (service_pb2, model_config_pb2)
        for outer in module.DESCRIPTOR.message_types_by_name.values()
        for message in nested(outer)
    }
    ours = [found for one in inference_pb2.DESCRIPTOR.message_types_by_name.values() for found in nested(one)]
    assert len(ours) > 50
    for message in ours:
        known = theirs[message.full_name].fields_by_name
        assert {one.name: facts(one) for one in message.fields} == {
            one.name: facts(known[one.name]) for one in message.fields
        }, message.full_name
    for name in ("ModelInferRequest", "ModelInferResponse", "InferTensorContents", "ModelMetadataResponse"):
        own = inference_pb2.DESCRIPTOR.message_types_by_name[name].fields_by_name
        assert own.keys() == theirs[f"inference.{name}"].fields_by_name.keys()


def test_stubs_have_the_methods_of_the_protocol() -> None:
    own, known = (
        {
            one.name: (one.input_type.full_name, one.client_streaming, one.output_type.full_name, one.server_streaming)
            for one in module.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
        }
        for module in (inference_pb2, service_pb2)
    )
    absent = {name for name in known if "SharedMemory" in name} | {"TraceSetting", "LogSettings"}
    assert own == {name: method for name, method in known.items() if name not in absent}
