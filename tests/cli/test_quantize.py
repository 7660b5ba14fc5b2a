"""`normfold quantize` and `normfold export --precision`, as a user meets them: output, exit codes, refusals."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import normfold
from normfold.contract.manifest import read_manifest
from normfold.contract.record import to_json
from normfold.contract.source_card import SourceCard
from normfold.errors import ArgumentError
from normfold.export.bundle.export import export_bundle
from normfold.export.errors import PrecisionLossError
from normfold.export.quantize import lower_precision
from normfold.export.quantize.proof import prove, time_ratio
from tests.support.command import Page, RunCommand, in_one_line
from tests.support.onnx_models import GREY_CARD, classifier, grey_classifier, grey_pictures, model, run32

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
        (["models/net", "--precision", "float16", "--force"], "--force is not for float16."),
        (["net.onnx", "out.onnx", "--no-reference"], "--no-reference is for a model in a repository"),
        (["net.onnx", "out.onnx", "--ranges", "samples"], "none are given: name them with --samples"),
        (["net.onnx", "out.onnx", "--ranges", "recorded"], "No ranges are recorded with this network"),
        (["models/net", "--ranges", "recorded"], "give --samples, or --ranges statistics."),
        (["models/other"], "There is no model 'other'"),
        (["other", "--repository", "models"], "There is no model 'other' in 'models'"),
        (["net", "--repository", "none"], "There is no folder 'none'; name the repository with --repository."),
        (["models/net", "--version", "7"], "There is no version 7 of 'net'; there are 1."),
        (["models/net", "--samples", "none.npz"], "'none.npz' cannot be read"),
        (["missing.onnx", "out.onnx"], "'missing.onnx'"),
        (["net.onnx", "net.onnx"], "'net.onnx' is read, and would be overwritten: name another file to write, or"),
        (["net.json", "out.onnx"], "'net.json' is not an ONNX file: the name of one ends in .onnx."),
        (["net.json"], "'net.json' is not an ONNX file"),
        (["resnet", "out.onnx"], "'resnet' is taken for a model in a repository"),
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


MATMUL = helper.make_node("MatMul", ["x", "w"], ["h"], name="large")
LAST = helper.make_node("MatMul", ["h", "v"], ["y"], name="last")
WEIGHTS = {"w": np.full((4, 4), 60_000, np.float32), "v": np.full((4, 4), 1e-5, np.float32)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "arguments", "code", "words"),
    [
        ([helper.make_node("Relu", ["x"], ["y"])], [], 2, ["'x.onnx' holds nothing to quantise: no Conv, Gemm or"]),
        ([MATMUL, LAST], [], 2, ["'x.onnx' are: no BatchNorm", "quantise the network before its fold", "--samples."]),
        ([MATMUL, LAST], ["--samples", "shape.npz"], 2, ["'x' of 'shape.npz' has shape [40, 5], the input ['n', 4]."]),
        ([MATMUL, LAST], ["--samples", "nan.npz"], 2, ["Sample 0 of the array 'x' of 'nan.npz'", "not a finite"]),
        ([MATMUL, LAST], ["--samples", "one.npz"], 1, ["error: 1 sample is too few: at least 32 are needed"]),
        ([MATMUL, LAST], ["--samples", "few.npz"], 1, ["5 samples are too few: at least 32 are needed"]),
        ([MATMUL, LAST], ["--precision", "float16"], 1, ["Node 'large' makes the value 'h', which reaches", "65504"]),
    ],
)
def test_network_or_samples_that_cannot_be_used_are_refused_in_one_sentence(
    normfold: RunCommand, tmp_path: Path, nodes: list[onnx.NodeProto], arguments: list[str], code: int, words: list[str]
) -> None:
    weights = {name: array for name, array in WEIGHTS.items() if any(name in node.input for node in nodes)}
    onnx.save(model(nodes, {"x": ["n", 4]}, ["y"], weights, dtype=np.float32), tmp_path / "x.onnx")
    rows = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    arrays = {
        "shape": np.hstack([rows, rows[:, :1]]),
        "nan": np.full_like(rows, np.nan),
        "few": rows[:5],
        "one": rows[:1],
    }
    for name, array in arrays.items():
        np.savez(tmp_path / f"{name}.npz", x=array)
    before = sorted(tmp_path.iterdir())

    found, out, err = normfold("quantize", "x.onnx", "out.onnx", *arguments)

    sentence = in_one_line(err)
    assert (found, out) == (code, "")
    assert all(each in sentence for each in words), sentence
    assert sentence.startswith("error: ")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_network_in_float64_is_named_by_the_dtype_of_its_weight(normfold: RunCommand, tmp_path: Path) -> None:
    onnx.save(
        model([helper.make_node("MatMul", ["x", "w"], ["y"], name="last")], {"x": ["n", 4]}, ["y"], {"w": np.eye(4)}),
        tmp_path / "x.onnx",
    )

    code, _, err = normfold("quantize", "x.onnx", "out.onnx")

    assert code == 2
    assert "nothing to quantise: the weight of its MatMul 'last' is float64, not float32." in in_one_line(err)


def with_constant_nodes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose weights are in Constant nodes."""
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in proto.graph.initializer]
    nodes = [*constants, *proto.graph.node]
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(nodes)
    return proto


@pytest.mark.slow
@pytest.mark.parametrize("opset", [8, 12])
def test_file_of_an_opset_that_int8_cannot_have_is_converted(normfold: RunCommand, tmp_path: Path, opset: int) -> None:
    onnx.save(classifier(np.random.default_rng(0), opset=opset), tmp_path / "x.onnx")

    code, _, err = normfold("quantize", "x.onnx", "out.onnx", "--force")

    assert code == 0, err
    assert [each.version for each in onnx.load(tmp_path / "out.onnx").opset_import if not each.domain] == [13]


@pytest.mark.slow
def test_file_with_weights_in_constant_nodes_is_replaced_by_itself_in_int8(
    normfold: RunCommand, net: Path, tmp_path: Path
) -> None:
    wanted = run32(onnx.load(net), {"input": GREY_CARD.standardise(grey_pictures(16, 7))})[0]
    onnx.save(with_constant_nodes(grey_classifier()), net)

    code, _, err = normfold("quantize", "net.onnx", "net.onnx", "--force")

    assert code == 0, err
    proto = onnx.load(net)
    assert "QuantizeLinear" in {node.op_type for node in proto.graph.node}
    got = run32(proto, {"input": GREY_CARD.standardise(grey_pictures(16, 7))})[0]
    assert np.abs(wanted - got).max() < 0.1 * np.abs(wanted).max()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.onnx"]


@pytest.mark.slow
def test_file_that_is_its_own_target_stays_where_it_is_refused(
    normfold: RunCommand, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PrecisionLossError("Too far")

    monkeypatch.setattr(lower_precision, "require", refuse)
    before = net.read_bytes()

    code, _, err = normfold("quantize", "net.onnx", "net.onnx", "--force")

    assert (code, net.read_bytes()) == (1, before)
    assert "Nothing was written" in in_one_line(err)


@pytest.mark.slow
def test_float16_file_replaces_its_source_with_force(normfold: RunCommand, net: Path) -> None:
    code, _, err = normfold("quantize", "net.onnx", "net.onnx", "--precision", "float16")
    assert (code, "net.onnx' is read, and would be overwritten" in err, "--force" in err) == (2, True, True)

    code, _, err = normfold("quantize", "net.onnx", "net.onnx", "--precision", "float16", "--force")

    assert code == 0, err
    assert "Cast" in {node.op_type for node in onnx.load(net).graph.node}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "code", "words"),
    [
        (np.array(["a", "b"] * 32), 0, "accuracy "),
        (np.array([0.0, 2.0] * 32), 0, "accuracy "),
        (np.array([0.5, 1.0] * 32), 2, "error: Sample 0 of 'labelled.npz', counted from 0, has the label 0.5"),
        (np.array(["a", "d"] * 32), 2, "has the label 'd'; the card's labels are 'a', 'b', 'c'."),
    ],
)
@pytest.mark.usefixtures("repository")
def test_labels_of_samples_are_taken_or_refused(
    normfold: RunCommand, tmp_path: Path, labels: np.ndarray, code: int, words: str
) -> None:
    np.savez(tmp_path / "labelled.npz", x=grey_pictures(64, 3), y=labels)

    found, out, err = normfold("quantize", "models/net", "--samples", "labelled.npz", "--force", "--max-drop", "1")

    assert found == code, err
    assert words in in_one_line(out + err)


@pytest.mark.slow
def test_file_without_a_card_is_compared_by_class(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    net.with_suffix(".json").unlink()
    np.savez(tmp_path / "tensors.npz", input=GREY_CARD.standardise(grey_pictures(64, 3)))

    code, out, _ = normfold("quantize", "net.onnx", "out.onnx", "--force", "--samples", "tensors.npz")
    assert code == 0
    assert "same class" in out
    assert "may be 0.99 or more" in out

    code, out, err = normfold("quantize", "net.onnx", "out.onnx", "--force", "--max-drop", "0.1")
    assert "--max-drop was not applied: there are no samples." in out
    code, out, err = normfold("quantize", "net.onnx", "out.onnx", "--force", "--max-drop", "0.1", "--json")
    assert code == 0
    assert json.loads(out)["precision"]["proof"]["agreement"] is None
    assert in_one_line(err) == "warning: --max-drop was not applied: there are no samples."


@pytest.mark.slow
def test_size_of_a_version_says_what_it_counts(normfold: RunCommand, repository: Path) -> None:
    out = in_one_line(normfold("quantize", str(repository / "net"), "--force")[1])
    assert "The size is that of model.onnx" in out
    assert "also keeps the float32 network as reference.onnx" in out

    out = in_one_line(normfold("quantize", str(repository / "net"), "--force", "--no-reference")[1])
    assert "keeps no float32 network beside it" in out


def test_option_without_an_effect_is_refused(
    normfold: RunCommand, repository: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez("rows.npz", x=np.zeros(3))
    for arguments in (
        ("quantize", "models/net", "--repository", "models"),
        ("unfold", "models/net", "out.onnx", "--repository", "models"),
        ("adapt", "models/net", "--samples", str(samples), "--repository", "models"),
    ):
        code, _, err = normfold(*arguments)
        assert (code, "--repository goes with the name of a model alone" in in_one_line(err)) == (2, True), arguments
    for arguments in (
        ("quantize", "net.onnx", "out.onnx", "--tensors"),
        ("repair", "net.onnx", "out.onnx", "--raw"),
        ("export", "net.onnx", "--precision", "int8", "--raw"),
        ("quantize", "models/net", "--samples", str(repository), "--tensors"),
    ):
        code, _, err = normfold(*arguments)
        assert (code, "--tensors or --raw states what" in in_one_line(err)) == (2, True), arguments
    monkeypatch.setenv("NORMFOLD_REPOSITORY", "elsewhere")
    assert "no version 7 of 'net'" in in_one_line(normfold("quantize", "models/net", "--version", "7")[2])


def test_repository_that_is_read_only_is_named(
    normfold: RunCommand, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)

    code, out, err = normfold("quantize", "models/net")

    assert (code, out) == (3, "")
    assert in_one_line(err).startswith("error: Cannot write 'models/net")
    assert "read-only file system" in in_one_line(err)
    assert [path.name for path in (repository / "net").iterdir()] == ["1"]


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
