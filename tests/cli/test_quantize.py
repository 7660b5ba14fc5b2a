"""`normfold quantize` and `normfold export --precision`, as a user meets them: output, exit codes, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import normfold
from normfold.contract.manifest import read_manifest
from normfold.contract.record import to_json
from normfold.contract.source_card import SourceCard
from normfold.errors import ArgumentError
from normfold.export.bundle.export import export_bundle
from normfold.export.quantize.proof import prove, time_ratio
from tests.support.command import Page, RunCommand
from tests.support.onnx_models import GREY_CARD, grey_classifier, grey_pictures

CARD = SourceCard(preprocessing=GREY_CARD, labels=("a", "b", "c"), logits=("logits",), origin="a test of digits")


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_ratio, "SECONDS", 0.0)
    monkeypatch.setattr(time_ratio, "MIN_ROUNDS", 1)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    onnx.save(grey_classifier(), tmp_path / "net.onnx")
    (tmp_path / "net.json").write_text(to_json(CARD))
    return tmp_path / "net.onnx"


@pytest.fixture
def repository(net: Path, tmp_path: Path) -> Path:
    export_bundle(net, tmp_path / "models", "net", card=CARD)
    return tmp_path / "models"


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    np.savez(tmp_path / "samples.npz", x=grey_pictures(64, 3))
    return tmp_path / "samples.npz"


@pytest.mark.slow
def test_quantize_publishes_a_version_and_prints_its_proof(normfold: RunCommand, repository: Path) -> None:
    code, out, _ = normfold("quantize", "models/net", "--force")

    assert code == 0
    assert all(len(line) <= 80 for line in out.splitlines())
    for words in ("sums of two products, in 16 bits", "runs with and without optimisations", "output logits"):
        assert words in out
    assert "accuracy was not measured" in " ".join(out.split())
    assert "'models/net/2' is int8." in out
    assert (repository / "net" / "2" / "reference.onnx").is_file()


@pytest.mark.slow
def test_json_output_of_quantize_is_the_record(normfold: RunCommand, repository: Path, samples: Path) -> None:
    code, out, _ = normfold(
        "quantize", "models/net", "--samples", str(samples), "--max-drop", "0.2", "--force", "--no-reference", "--json"
    )

    record = json.loads(out)
    assert code == 0
    assert (record["name"], record["version"], record["target"]) == ("net", 2, "models/net/2")
    manifest = read_manifest(repository / "net" / "2" / "manifest.json")
    assert manifest.precision is not None
    assert record["precision"] == manifest.precision.model_dump(mode="json")
    assert record["precision"]["recipe"]["max_drop"] == 0.2
    assert record["precision"]["proof"]["agreement"]["share"] > 0.8
    assert "reference.onnx" not in manifest.files


@pytest.mark.slow
def test_quantize_writes_a_file_with_the_card_beside_it(normfold: RunCommand, net: Path, samples: Path) -> None:
    code, out, _ = normfold(
        "quantize", "net.onnx", "half.onnx", "--precision", "float16", "--samples", str(samples), "--float16-io"
    )

    assert code == 0
    assert "2 of 2 BatchNormalization nodes folded" in out
    assert "same class" in out
    assert "'half.onnx' is float16." in out
    proto = onnx.load(net.parent / "half.onnx")
    assert proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16


@pytest.mark.slow
@pytest.mark.usefixtures("net")
def test_export_writes_a_bundle_in_int8(normfold: RunCommand, tmp_path: Path) -> None:
    code, out, _ = normfold("export", "net.onnx", "--repository", "models", "--precision", "int8", "--force", "--json")

    record = json.loads(out)
    assert code == 0
    assert record["precision"]["kind"] == "int8"
    assert record["precision"]["proof"]["rows_from"] == "random"
    assert record["verification"]["passes"] is True
    assert {"model.onnx", "reference.onnx"} <= read_manifest(tmp_path / "models/net/1/manifest.json").files.keys()


@pytest.mark.slow
def test_int8_that_is_not_faster_exits_with_1_and_names_the_remedy(
    normfold: RunCommand, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prove, "measure_time_ratio", lambda *_: 1.2)

    code, out, err = normfold("quantize", "models/net")

    assert (code, out) == (1, "")
    assert "not faster than float32" in " ".join(err.split())
    assert "--force" in err
    assert [path.name for path in (repository / "net").iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.onnx"], "'net.onnx' is an ONNX file; name the file to write after it."),
        (["models/net", "out.onnx"], "whose next version is written there"),
        (["net.onnx", "out.onnx", "--version", "1"], "--version is for a model in a repository"),
        (["models/net", "--card", "net.json"], "--card is for an ONNX file"),
        (["net.onnx", "out.onnx", "--float16-io"], "--float16-io is not for int8."),
        (["net.onnx", "out.onnx", "--precision", "float16", "--force"], "--force is not for float16."),
        (["net.onnx", "out.onnx", "--no-reference"], "--no-reference is for a model in a repository"),
        (["net.onnx", "out.onnx", "--ranges", "samples"], "none are given: name them with --samples"),
        (["models/other"], "There is no model 'other'"),
        (["missing.onnx", "out.onnx"], "'missing.onnx'"),
    ],
)
@pytest.mark.usefixtures("repository")
def test_wrong_use_of_quantize_exits_with_2_and_one_sentence(
    normfold: RunCommand, arguments: list[str], message: str
) -> None:
    code, out, err = normfold("quantize", *arguments)

    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.usefixtures("net")
def test_options_of_a_precision_are_refused_for_float32(normfold: RunCommand) -> None:
    code, _, err = normfold("export", "net.onnx", "--repository", "models", "--max-drop", "0.1")

    assert code == 2
    assert "--max-drop goes with --precision int8 or float16." in " ".join(err.split())


@pytest.mark.slow
@pytest.mark.usefixtures("repository")
def test_repository_list_names_the_precision(normfold: RunCommand) -> None:
    normfold("quantize", "models/net", "--force")

    code, out, _ = normfold("repository", "list", "--repository", "models")

    assert code == 0
    assert [line.split()[-1] if "int8" not in line else "int8" for line in out.splitlines() if "net/2" in line]
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "int8" in out


@pytest.mark.slow
@pytest.mark.usefixtures("repository")
def test_page_of_a_model_in_a_quantised_bundle_shows_fold_and_precision(normfold: RunCommand, tmp_path: Path) -> None:
    normfold("quantize", "models/net", "--force")

    code, _, _ = normfold("inspect", "models/net/2/unfolded.onnx", "--html", "page.html")

    assert code == 0
    page = Page((tmp_path / "page.html").read_text())
    assert "Precision: int8" in page.text
    assert "Error against noise" in page.text


@pytest.mark.slow
def test_result_of_quantize_is_a_sentence_and_a_page(repository: Path, samples: Path) -> None:
    result = normfold.quantize(repository / "net", samples=samples, max_drop=0.2, force=True)

    assert repr(result).startswith(f"QuantizeResult({str(repository / 'net' / '2')!r}: int8, ")
    assert "same class for" in repr(result)
    assert result.proof.rows == 32
    page = Page(result.to_html())
    assert "runs with and without optimisations" in page.text
    assert "iframe" in result._repr_html_()
    assert result.manifest is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int4"}, "`precision` 'int4' is not int8 or float16"),
        ({"max_drop": 2.0}, "`max_drop` 2.0 is not between 0 and 1"),
    ],
)
def test_wrong_arguments_of_quantize_are_named(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        normfold.quantize(tmp_path / "net", **arguments)  # type: ignore[arg-type]
