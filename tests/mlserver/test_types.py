"""MLServer's types and codecs build requests and parse answers, in the environment that MLSERVER_PYTHON names.

`make test-mlserver` makes it: MLServer needs other versions of packages than Normfold's own environment has.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.bundles import BundleWriter
from tests.support.command import serving_process
from tests.support.proxy.nginx import ROUTES, run_nginx
from tests.support.raw_http import open_client
from tests.support.waiting import wait_until_ready

HTTP = """
import json, sys, urllib.error, urllib.request
import numpy as np
from mlserver import types
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, StringCodec, StringRequestCodec

def ask(path, body=None, method="POST"):
    data = None if body is None else body if isinstance(body, bytes) else body.model_dump_json().encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(sys.argv[1] + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()

def get(path):
    return ask(path, method="GET")

server = types.MetadataServerResponse.model_validate_json(get("/v2"))
assert server.name == "normfold" and "binary_tensor_data" in server.extensions, server
model = types.MetadataModelResponse.model_validate_json(get("/v2/models/digits"))
assert (model.name, model.versions, [one.datatype for one in model.inputs]) == ("digits", ["1"], ["FP32"]), model

given = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
request = NumpyRequestCodec.encode_request(given)  # one input, with a content type
request.inputs[0].name, request.id = "input", "7"
answer = types.InferenceResponse.model_validate_json(ask("/v2/models/identity-fp32/infer", request))
assert (answer.id, answer.model_name, answer.model_version) == ("7", "identity-fp32", "1"), answer
assert (NumpyRequestCodec.decode_response(answer) == given).all()

for outputs in (None, [], [types.RequestOutput(name="output")]):
    for identity in (None, "8"):
        inputs = [NumpyCodec.encode_input("input", given)]
        request = types.InferenceRequest(id=identity, inputs=inputs, outputs=outputs)
        for body in (request, request.model_dump_json(exclude_none=True).encode()):
            answer = types.InferenceResponse.model_validate_json(ask("/v2/models/identity-fp32/versions/1/infer", body))
            assert (answer.id, answer.outputs[0].name) == (identity, "output"), answer
            assert (NumpyCodec.decode_output(answer.outputs[0]) == given).all()

for datatype in ("bool", "int8", "int64", "uint8", "uint64", "float64"):
    name = {"bool": "bool", "float64": "fp64"}.get(datatype, datatype)
    values = np.array([[0, 1, 1]], datatype)
    request = types.InferenceRequest(inputs=[NumpyCodec.encode_input("input", values)])
    answer = types.InferenceResponse.model_validate_json(ask(f"/v2/models/identity-{name}/infer", request))
    found = NumpyCodec.decode_output(answer.outputs[0])
    assert found.dtype == values.dtype and (found == values).all(), (datatype, found)

texts = types.InferenceRequest(inputs=[StringCodec.encode_input("input", ["é", ""])])
texts.inputs[0].shape = [1, 2]
answer = types.InferenceResponse.model_validate_json(ask("/v2/models/identity-bytes/infer", texts))
assert StringCodec.decode_output(answer.outputs[0]) == ["é", ""], answer

index = json.loads(ask("/v2/repository/index", types.RepositoryIndexRequest(ready=True)))
states = {one.name: one.state for one in map(types.RepositoryIndexResponseItem.model_validate, index)}
assert states["digits"] == types.State.READY.value, states
assert len(types.RepositoryIndexResponse.model_validate(index).root) == len(index)

try:
    ask("/v2/models/none/infer", request)
except urllib.error.HTTPError as error:
    found = types.InferenceErrorResponse.model_validate_json(error.read())
    assert error.code == 404 and "There is no model 'none'" in found.error, found
else:
    raise SystemExit("a model that does not exist answered")
"""

GRPC = """
import sys
import grpc
import numpy as np
from mlserver import types
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.grpc import dataplane_pb2
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

given = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = GRPCInferenceServiceStub(channel)
    assert stub.ServerReady(dataplane_pb2.ServerReadyRequest()).ready
    assert stub.ModelMetadata(dataplane_pb2.ModelMetadataRequest(name="digits")).versions == ["1"]
    for use_raw in (False, True):
        inputs = [NumpyCodec.encode_input("input", given)]
        request = types.InferenceRequest(id="7", inputs=inputs)
        message = ModelInferRequestConverter.from_types(request, "identity-fp32", "1", use_raw=use_raw)
        answer = ModelInferResponseConverter.to_types(stub.ModelInfer(message))
        assert (answer.id, answer.model_version) == ("7", "1"), answer
        assert (NumpyCodec.decode_output(answer.outputs[0]) == given).all()
        request = types.InferenceRequest(inputs=[StringCodec.encode_input("input", ["é", ""])])
        request.inputs[0].shape = [1, 2]
        message = ModelInferRequestConverter.from_types(request, "identity-bytes", use_raw=use_raw)
        answer = ModelInferResponseConverter.to_types(stub.ModelInfer(message))
        assert StringCodec.decode_output(answer.outputs[0]) == ["é", ""], answer
"""

DATATYPES = ("FP32", "BYTES", "BOOL", "INT8", "INT64", "UINT8", "UINT64", "FP64")


def run(script: str, address: str) -> None:
    """Run a script with MLServer."""
    command = [os.environ["MLSERVER_PYTHON"], "-c", script, address]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr


def test_mlserver_types_build_requests_and_parse_answers(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    writer = BundleWriter(tmp_path)
    writer.digits()
    for datatype in DATATYPES:
        writer.identity(datatype)
    options = ("--provider", "cpu", "--port", "0", "--grpc-port", "0", "--proxy-headers")
    with serving_process(tmp_path, *options) as (_, facts), open_client(facts["url"]) as client:
        wait_until_ready(client)
        with run_nginx(tmp_path_factory.mktemp("nginx"), facts["port"], facts["grpc_port"]) as nginx:
            for url in (facts["url"], *map(nginx.url, ROUTES)):
                run(HTTP, url)
            for port in (facts["grpc_port"], nginx.grpc_port):
                run(GRPC, f"127.0.0.1:{port}")
