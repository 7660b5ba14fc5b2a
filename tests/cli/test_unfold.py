"""`normfold unfold`: of a file and of a model in a repository; what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import normfold as api
from normfold.errors import ArgumentError
from normfold.export.bundle.export import export_bundle
from normfold.export.files.fold_file import fold_file
from tests.support.command import RunCommand
from tests.support.onnx_models import assert_same_weights, operators, small_convnet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with net.onnx, folded.onnx, samples.npz, and models/net/1."""
    onnx.save(small_convnet(np.random.default_rng(0)), tmp_path / "net.onnx")
    fold_file(tmp_path / "net.onnx", tmp_path / "folded.onnx")
    export_bundle(tmp_path / "net.onnx", tmp_path / "models", "net", monitoring=False)
    np.savez(tmp_path / "samples.npz", x=np.random.default_rng(1).normal(2, 3, (40, 4, 5, 5)).astype(np.float32))
    return tmp_path


def test_folder_before_a_name_goes_before_the_environment(
    normfold: RunCommand, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMFOLD_REPOSITORY", "none")

    assert normfold("unfold", "models/net", "out.onnx")[0] == 0
    assert (folder / "out.onnx").is_file()
    code, _, err = normfold("unfold", "net", "other.onnx")
    assert (code, err) == (2, "error: There is no folder 'none'; name the repository with --repository.\n")


def test_file_is_unfolded_with_samples(normfold: RunCommand, folder: Path) -> None:
    code, out, err = normfold("unfold", "folded.onnx", "out.onnx", "--samples", "samples.npz")

    assert (code, err) == (0, "")
    assert "2 BatchNormalization nodes in 'out.onnx'." in out
    assert "equal" in out
    names = ["Conv", "BatchNormalization", "Relu", "Flatten", "Gemm", "BatchNormalization"]
    assert operators(onnx.load(folder / "out.onnx")) == names
    fold_file(folder / "out.onnx", folder / "again.onnx")
    assert_same_weights(onnx.load(folder / "folded.onnx"), onnx.load(folder / "again.onnx"))


def test_json_output_of_unfold_is_the_record(normfold: RunCommand, folder: Path) -> None:
    code, out, _ = normfold("unfold", "folded.onnx", "--samples", "samples.npz", "--json")

    record = json.loads(out)
    assert code == 0
    assert record["target"] == "folded.unfolded.onnx"
    assert (folder / "folded.unfolded.onnx").is_file()
    assert record["layers"][0] == {"node": "conv.batchnorm", "behind": "conv", "channels": 4}
    assert (record["left"], record["verification"]["passes"]) == ([], True)


@pytest.mark.parametrize(
    "arguments", [("net", "--repository", "models"), ("models/net",), ("models/net", "--version", "1")]
)
def test_model_of_a_repository_gives_its_own_batchnorm(
    normfold: RunCommand, folder: Path, arguments: tuple[str, ...]
) -> None:
    code, out, _ = normfold("unfold", *arguments)

    assert code == 0
    assert "1 BatchNormalization node in 'net.unfolded.onnx'." in out
    assert operators(onnx.load(folder / "net.unfolded.onnx")) == operators(onnx.load(folder / "net.onnx"))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["folded.onnx"], 2, "give inputs of the network to take them from: --samples, a folder, an .npz or a .csv"),
        (["none.onnx", "--samples", "samples.npz"], 2, "'none.onnx' cannot be read: No such file or directory."),
        (["folded.onnx", "--samples", "none.npz"], 2, "'none.npz' cannot be read"),
        (["folded.onnx", "--version", "1"], 2, "--version is for a model in a repository."),
        (["net", "--repository", "models", "--samples", "samples.npz"], 2, "--samples is for an ONNX file; a bundle"),
        (["none", "--repository", "models"], 2, "There is no model 'none' in 'models'"),
        (["models/net", "--version", "7"], 2, "There is no version 7 of 'net'"),
        (["net", "none/out.onnx", "--repository", "models"], 3, "Cannot write 'none/out.onnx'"),
    ],
)
def test_wrong_use_of_unfold_is_one_sentence_and_writes_nothing(
    normfold: RunCommand, folder: Path, arguments: list[str], code: int, says: str
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    found, out, err = normfold("unfold", *arguments)
    assert (found, out) == (code, "")
    assert says in " ".join(err.split())
    assert sorted(path.name for path in folder.iterdir()) == before


def test_python_function_unfolds(folder: Path) -> None:
    result = api.unfold(folder / "folded.onnx", folder / "out.onnx", samples=folder / "samples.npz")
    assert repr(result).startswith(f"UnfoldResult({str(folder / 'out.onnx')!r}: 2 BatchNormalization nodes. Verified")
    own = api.unfold("net", folder / "own.onnx", repository=folder / "models")
    assert [layer.node for layer in own.report.layers] == ["bn"]
    with pytest.raises(ArgumentError, match="`samples` is for an ONNX file"):
        api.unfold("net", samples="samples.npz")
