"""What the serving process has loaded once it serves: neither torch nor onnx, and nothing of another folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from normfold.contract.manifest import FoldSummary, Manifest, TensorSpec, sha256_of
from normfold.contract.record import to_json

# The command itself, ended from within once its repository is loaded: then it prints what it has imported.
RUNNER = """
import json, os, signal, sys
from normfold.service.repository.repository import Repository

load = Repository.load

async def load_and_stop(self):
    await load(self)
    try:
        await self.find("same").infer({"input": __import__("numpy").ones((1, 2), "float32")}, ["output"])
    finally:
        os.kill(os.getpid(), signal.SIGTERM)

Repository.load = load_and_stop
from normfold.cli.main import main
try:
    main()
finally:
    names = [name.split(".") for name in sys.modules]
    # `normfold.export` itself is imported, a docstring; its modules must not be.
    loaded = {name[1] if name[0] == "normfold" and len(name) > 2 else name[0] for name in names}
    sys.stdout.write(json.dumps(sorted(loaded)))
"""


@pytest.mark.slow
def test_serving_loads_neither_torch_nor_onnx(tmp_path: Path) -> None:
    write_bundle(tmp_path / "same" / "1")
    ended = subprocess.run(
        [sys.executable, "-c", RUNNER, "serve", "--repository", str(tmp_path), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("NORMFOLD_")},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    loaded = set(json.loads(ended.stdout))
    assert {"onnxruntime", "fastapi", "service", "contract"} <= loaded
    heavy = {"torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "sklearn", "matplotlib", "accelerate", "grpc"}
    assert not loaded & (heavy | {"models", "export"})


def write_bundle(folder: Path) -> None:
    folder.mkdir(parents=True)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 2]) for name in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["output"])], "same", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    manifest = Manifest(
        name="same",
        version=1,
        created="2026-01-01T00:00:00Z",
        inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, 2)),),
        outputs=(TensorSpec(name="output", datatype="FP32", shape=(-1, 2)),),
        batchable=True,
        opset=18,
        fold=FoldSummary(batchnorm_before=0, batchnorm_after=0),
        verification={},
        versions={},
        files={"model.onnx": sha256_of(folder / "model.onnx")},
    )
    (folder / "manifest.json").write_text(to_json(manifest))
