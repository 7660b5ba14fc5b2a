"""`normfold repository import` and `triton-config`: exit codes, what is printed, and what is served."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.bundles import LABELS, TRITON_CONFIG, BundleWriter, TritonWriter
from tests.support.command import RunCommand, in_one_line
from tests.support.onnx_models import run64, small_convnet
from tests.support.service import StartService


@pytest.fixture
def triton(tmp_path: Path) -> TritonWriter:
    return TritonWriter(tmp_path / "triton")


@pytest.mark.slow
def test_imported_models_are_served_checked_and_copied(
    normfold: RunCommand, triton: TritonWriter, root: Path, start: StartService
) -> None:
    triton.write("net", versions=(3,))

    code, out, err = normfold("repository", "import", "triton")

    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "net: version 3 written."
    assert lines[1].startswith("  Version 3: 1 of 1 BatchNormalization nodes folded; verified: error ")
    assert lines[2].startswith("  - `max_batch_size` 8 is the service's NORMFOLD_MAX_BATCH_SIZE")
    assert lines[-1] == "1 imported."
    assert normfold("repository", "check")[0] == 0
    assert normfold("repository", "copy", "other", "model_repository/net/3")[0] == 0
    assert normfold("repository", "triton-config")[0] == 0
    x = np.random.default_rng(1).normal(size=(1, 4, 5, 5)).astype(np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4, 5, 5], "data": x.ravel().tolist()}
    body = {"inputs": [tensor], "outputs": [{"name": "y", "parameters": {"classification": 3}}]}
    (expected,) = run64(small_convnet(np.random.default_rng(3)), {"x": x.astype(np.float64)})
    service = start(root)
    for name in ("net", "other"):
        ranked = service.client.post(f"/v2/models/{name}/infer", json=body).json()["outputs"][0]["data"]
        assert [text.split(":")[2] for text in ranked] == [LABELS[index] for index in np.argsort(-expected[0])]


@pytest.mark.slow
def test_import_that_fails_in_part_says_which_models_failed(normfold: RunCommand, triton: TritonWriter) -> None:
    triton.write("good")
    triton.write("wrong", TRITON_CONFIG.replace('"x"', '"z"'))
    triton.write("python", 'backend: "python"')

    code, out, _ = normfold("repository", "import", "triton", "--json")

    found = {one["name"]: one for one in json.loads(out)["models"]}
    assert code == 1
    assert {name: one["outcome"] for name, one in found.items()} == {
        "good": "imported",
        "wrong": "failed",
        "python": "skipped",
    }
    (bundle,) = found["good"]["written"]
    assert (bundle["version"], bundle["fold"]["batchnorm_after"], bundle["batchable"]) == (1, 0, True)
    assert bundle["verification"]["y"]["error"] <= bundle["verification"]["y"]["allowed"]
    assert "has an input 'z'; the network has 'x'" in found["wrong"]["problem"]
    assert [path.name for path in Path("model_repository").iterdir()] == ["good"]
    code, out, _ = normfold("repository", "import", "triton", "--model", "good")
    assert (code, out.splitlines()[0], out.splitlines()[-1]) == (0, "good: version 1 already there.", "1 present.")


@pytest.mark.parametrize(
    ("config", "options", "code", "says"),
    [
        ('backend: "python"', (), 1, "net: skipped. Its backend is 'python'"),
        ('backend: "python"', ("--model", "net"), 1, "1 skipped."),
        (TRITON_CONFIG.replace('"x"', '"z"'), ("--dry-run",), 1, "net: failed. The configuration has an input 'z'"),
        (TRITON_CONFIG, ("--model", "none"), 2, "There is no model 'none' in 'triton'; there are 'net'."),
    ],
)
def test_import_of_nothing_is_not_done(
    normfold: RunCommand, triton: TritonWriter, config: str, options: tuple[str, ...], code: int, says: str
) -> None:
    triton.write("net", config)

    ended, out, err = normfold("repository", "import", "triton", *options)

    assert ended == code
    assert says in in_one_line(out + err)
    assert not Path("model_repository").exists()


@pytest.mark.slow
def test_import_tried_dry_writes_nothing(normfold: RunCommand, triton: TritonWriter) -> None:
    triton.write("net", versions=(1, 2))
    code, out, _ = normfold("repository", "import", "triton", "--dry-run")
    assert code == 0
    assert "net: versions 1, 2 would be written." in out
    assert not Path("model_repository").exists()


@pytest.mark.slow
def test_triton_config_is_written_for_every_model(normfold: RunCommand, digits: BundleWriter) -> None:
    digits.rows()
    code, out, _ = normfold("repository", "triton-config", "--json", "--version-policy", "latest:1")
    names = [one["name"] for one in json.loads(out)["models"]]
    assert (code, names) == (0, ["digits", "rows"])
    for name in names:
        assert "num_versions: 1" in (digits.root / name / "config.pbtxt").read_text()
    assert normfold("repository", "check")[0] == 0


@pytest.mark.slow
def test_triton_config_is_written_for_all_models_or_none(normfold: RunCommand, digits: BundleWriter) -> None:
    digits.rows()
    (digits.root / "rows" / "config.pbtxt").write_text("max_batch_size: 1\n")
    code, out, err = normfold("repository", "triton-config")
    assert (code, out) == (2, "")
    assert "'model_repository/rows/config.pbtxt' was not written by normfold" in in_one_line(err)
    assert not (digits.root / "digits" / "config.pbtxt").exists()
    assert normfold("repository", "triton-config", "digits")[0] == 0
