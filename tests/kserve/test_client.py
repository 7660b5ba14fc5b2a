"""KServe's own client of gRPC, in the environment that KSERVE_PYTHON names: `make test-kserve`.

KServe needs other versions of packages than Normfold's own environment has.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.bundles import BundleWriter
from tests.support.command import serving
from tests.support.proxy.nginx import run_nginx
from tests.support.waiting import wait_until_ready

SCRIPT = """
import asyncio, sys
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferOutput, InferRequest

async def ask():
    client = InferenceGRPCClient(url=sys.argv[1])
    assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready("digits")
    given = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    for is_raw in (True, False):
        tensor = InferInput("input", [2, 3], "FP32")
        tensor.set_data_from_numpy(given, binary_data=is_raw)
        request = InferRequest(model_name="identity-fp32", infer_inputs=[tensor], request_id="7")
        answer = await client.infer(request)
        assert answer.id == "7" and (answer.outputs[0].as_numpy() == given).all()
    texts = InferInput("input", [1, 2], "BYTES")
    texts.set_data_from_numpy(np.array([["é".encode(), b""]], np.object_), binary_data=True)
    answer = await client.infer(InferRequest(model_name="identity-bytes", infer_inputs=[texts]))
    assert answer.outputs[0].as_numpy().tolist() == [["é".encode(), b""]]
    try:
        await client.infer(InferRequest(model_name="none", infer_inputs=[tensor]))
    except Exception as error:
        assert "There is no model 'none'" in str(error), error
    else:
        raise SystemExit("a model that does not exist answered")
    await client.close()

asyncio.run(ask())
"""


def test_kserve_client_gets_its_answers(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    writer = BundleWriter(tmp_path)
    writer.digits()
    for datatype in ("FP32", "BYTES"):
        writer.identity(datatype)
    with serving(tmp_path, "--provider", "cpu", "--grpc-port", "8981") as (_, client):
        wait_until_ready(client)
        with run_nginx(tmp_path_factory.mktemp("nginx"), client.base_url.port or 80, 8981) as nginx:
            for port in (8981, nginx.grpc_port):
                command = [os.environ["KSERVE_PYTHON"], "-c", SCRIPT, f"127.0.0.1:{port}"]
                ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
                assert ended.returncode == 0, ended.stderr
