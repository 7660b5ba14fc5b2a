"""`fold`, `verify`, `inspect`, `export`, `audit`, `adapt` and `train`: what they return, write and show."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import normfold
from normfold.contract.record import to_json
from normfold.contract.source_card import SourceCard
from normfold.errors import (
    ArgumentError,
    RunFolderError,
    TrainModeError,
    UnstableSamplesError,
    VerificationError,
)
from tests.support.command import Page
from tests.support.onnx_models import small_convnet

FRAME = re.compile(r'<iframe srcdoc="([^"]*)" sandbox="" style="[^"]*" title="Normfold"></iframe>')


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """An ONNX file: Conv, BatchNormalization, Relu, Flatten, Gemm; x (n, 4, 5, 5), y (n, 3)."""
    onnx.save(small_convnet(np.random.default_rng(0)), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def framed_page(result: Any) -> Page:
    """Return the page that a notebook shows of a result."""
    found = FRAME.fullmatch(result._repr_html_())
    assert found is not None
    return Page(html.unescape(found[1]))


def assert_short_and_frozen(result: Any) -> None:
    assert len(repr(result)) < 300
    assert "\n" not in repr(result)
    name = dataclasses.fields(result)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, name, None)


def test_fold_freezes_inputs_with_a_default(net: Path) -> None:
    proto = onnx.load(net)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.save(proto, net)

    report = normfold.fold(net, net.with_name("folded.onnx")).report
    assert report.batchnorm_after == 1
    assert "(`freeze_inputs` makes its default a constant)" in (report.entries[0].reason or "")
    assert normfold.fold(net, net.with_name("folded.onnx"), freeze_inputs=True).report.batchnorm_after == 0


@pytest.mark.parametrize("kind", [str, Path])
def test_fold_writes_the_folded_model(net: Path, kind: type) -> None:
    result = normfold.fold(kind(net), kind(net.with_name("folded.onnx")))

    assert (result.report.batchnorm_before, result.report.batchnorm_after) == (1, 0)
    assert result.verification is not None
    assert result.verification.passes
    nodes = [node.op_type for node in onnx.load(net.with_name("folded.onnx")).graph.node]
    assert "BatchNormalization" not in nodes
    assert re.search(r"folded.onnx': 1 of 1 BatchNormalization nodes folded .* Verified: error at most", repr(result))
    assert_short_and_frozen(result)


def test_fold_shows_the_graph_in_a_notebook(net: Path) -> None:
    page = framed_page(normfold.fold(net, net.with_name("folded.onnx")))
    assert "svg" in page.tags
    assert "Verified: the folded model computes the same." in page.text


def test_fold_in_place_has_no_picture(net: Path) -> None:
    result = normfold.fold(net, net, verify=False, force=True)
    assert result._repr_html_() is None
    assert "Not verified." in repr(result)


def test_fold_takes_pixels_as_a_card_says(net: Path) -> None:
    with pytest.raises(ArgumentError, match="`card` goes with `takes_pixels`"):
        normfold.fold(net, net.with_name("folded.onnx"), card="card.json")
    assert not net.with_name("folded.onnx").exists()


def test_progress_is_called_with_each_step(net: Path) -> None:
    steps: list[str] = []
    normfold.fold(net, net.with_name("folded.onnx"), progress=steps.append)
    assert list(dict.fromkeys(step.partition(":")[0] for step in steps)) == [
        "reading the model",
        "folding",
        "verifying",
    ]
    assert "folding: fold and join" in steps


def test_progress_true_shows_a_status(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    normfold.fold(net, net.with_name("folded.onnx"), progress=True)
    normfold.fold(net, net.with_name("folded.onnx"))
    assert capsys.readouterr().out == ""


def changed(net: Path) -> Path:
    """Write a copy of the model with other weights."""
    proto = onnx.load(net)
    weight = proto.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(proto, net.with_name("changed.onnx"))
    return net.with_name("changed.onnx")


def test_verify_distinguishes_equal_from_different_models(net: Path) -> None:
    normfold.fold(net, net.with_name("folded.onnx"))
    right, wrong = normfold.verify(net, net.with_name("folded.onnx")), normfold.verify(net, changed(net))

    assert right.passes
    right.require()
    assert not wrong.passes
    with pytest.raises(VerificationError, match="Output 'y' differs by"):
        wrong.require()
    assert repr(wrong).endswith("The two models differ.)")
    assert_short_and_frozen(right)
    page = framed_page(wrong)
    assert "different" in page.text
    assert "y" in page.text


def test_inspect_leaves_the_model_and_writes_the_page(net: Path) -> None:
    before = net.read_bytes()
    result = normfold.inspect(net, html=net.with_name("page.html"))

    assert net.read_bytes() == before
    assert [entry.outcome.value for entry in result.report.entries] == ["folded back"]
    assert net.with_name("page.html").read_text("utf-8") == result.to_html()
    assert framed_page(result).tags == Page(result.to_html()).tags
    assert_short_and_frozen(result)


def test_inspect_without_verification_needs_no_runtime(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normfold._inspect.require_export", None)
    assert normfold.inspect(net, verify=False).verification is None


def test_inspect_does_not_write_over_the_model(net: Path) -> None:
    with pytest.raises(ArgumentError, match="`html` .* is the model itself"):
        normfold.inspect(net, html=net)


def test_export_writes_a_bundle_that_load_repository_runs(net: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    card.write_text(to_json(SourceCard(labels=("a", "b", "c"), logits=("y",))))
    rows = {"x": np.random.default_rng(1).normal(size=(120, 4, 5, 5)).astype(np.float32)}

    result = normfold.export(net, tmp_path / "models", card=card, calibration_data=rows)

    assert result.path == tmp_path / "models" / "net" / "1"
    assert result.monitor is not None
    assert result.monitor.calibration_rows == 120
    assert result.kept_statistics == "an ONNX file has no training data"
    assert_short_and_frozen(result)
    assert "svg" in framed_page(result).tags
    with normfold.load_repository(tmp_path / "models", provider="cpu") as models:
        [found] = models["net"].predict(rows["x"][:1])
        assert found.label in ("a", "b", "c")


def test_export_without_the_source_has_no_picture(net: Path, tmp_path: Path) -> None:
    assert normfold.export(net, tmp_path / "models", keep_source=False)._repr_html_() is None


def test_export_checks_arguments_by_their_names(net: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`weights` goes with module:factory"):
        normfold.export(net, tmp_path / "models", weights="w.pt")
    with pytest.raises(ArgumentError, match="A shape in `input_shape` goes with module:factory"):
        normfold.export(net, tmp_path / "models", input_shape=(4, 5, 5))
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_export_and_audit_take_a_torch_network(tmp_path: Path) -> None:
    from torch import nn

    network = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
    with pytest.raises(TrainModeError, match=r"call network.eval\(\)"):
        normfold.export(network, tmp_path / "models", input_shape=(1, 8, 8))
    with pytest.raises(ArgumentError, match="A torch network needs `input_shape`"):
        normfold.export(network.eval(), tmp_path / "models")
    with pytest.raises(ArgumentError, match="`weights` goes with module:factory; 'Sequential' is a torch network"):
        normfold.export(network, tmp_path / "models", input_shape=(1, 8, 8), weights="w.pt")

    result = normfold.export(network, tmp_path / "models", name="own", input_shape="1x8x8", monitor=False)

    assert result.manifest.outputs[0].shape == (-1, 5, 6, 6)
    assert result.report.batchnorm_after == 0
    assert result.kept_statistics == "a torch network has no training data"
    found = normfold.audit(network, input_shape=(1, 8, 8))
    assert found.source == "Sequential"
    assert [finding.code for finding in found.findings] == ["statistics-unset"]


def test_export_of_something_else_names_its_type(tmp_path: Path) -> None:
    given: Any = 3
    with pytest.raises(
        ArgumentError,
        match="`source` must be a run folder, a bundle, an .onnx file, a module:factory or a torch network, not 3",
    ):
        normfold.export(given, tmp_path / "models")


@pytest.mark.slow
def test_export_takes_a_factory_with_arguments_and_a_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_factory.py").write_text(
        "from torch import nn\n"
        "def net(width):\n"
        "    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU()).eval()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = normfold.export(
        "own_factory:net", tmp_path / "models", input_shape=(1, 8, 8), arguments={"width": 5}, monitor=False
    )
    assert result.manifest.outputs[0].shape == (-1, 5, 6, 6)
    assert normfold.audit("own_factory:net", input_shape=(1, 8, 8), arguments={"width": 5}).audit.layers


def test_audit_returns_findings_the_worst_first(net: Path) -> None:
    proto = onnx.load(net)
    for tensor in proto.graph.initializer:
        if tensor.name.endswith("var"):
            tensor.CopyFrom(numpy_helper.from_array(-np.ones_like(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(proto, net)

    result = normfold.audit(net, html=net.with_name("audit.html"))

    assert result.findings[0].severity == "error"
    assert result.at_least("error")
    assert net.with_name("audit.html").read_text("utf-8") == result.to_html()
    assert_short_and_frozen(result)
    assert "svg" in framed_page(result).tags


def test_audit_checks_arguments_by_their_names(net: Path) -> None:
    with pytest.raises(ArgumentError, match="`data` is for a run folder"):
        normfold.audit(net, data="digits")


def test_adapt_publishes_a_version_or_shows_it_first(net: Path, tmp_path: Path) -> None:
    normfold.export(net, tmp_path / "models")
    rows = np.random.default_rng(1).normal(2.0, 3.0, (64, 4, 5, 5)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=rows)
    np.savez(tmp_path / "moving.npz", x=rows + np.linspace(0, 50, 64, dtype=np.float32)[:, None, None, None])

    moving = normfold.adapt(tmp_path / "models", "net", tmp_path / "moving.npz", dry_run=True)
    with pytest.raises(UnstableSamplesError):
        moving.require()
    dry = normfold.adapt(str(tmp_path / "models"), "net", str(tmp_path / "samples.npz"), dry_run=True)
    dry.require()
    assert dry.exported is None
    assert dry._repr_html_() is None
    assert (dry.samples, dry.prior, len(dry.layers)) == (64, 16.0, 1)
    assert sorted(path.name for path in (tmp_path / "models" / "net").iterdir()) == ["1"]

    result = dry.publish()
    assert result.exported is not None
    assert result.exported.path == tmp_path / "models" / "net" / "2"
    assert "net/2' from 'net/1', 64 samples. Verified" in repr(result)
    assert "svg" in framed_page(result).tags
    assert_short_and_frozen(result)


@pytest.mark.slow
def test_train_leaves_a_run_folder(tmp_path: Path) -> None:
    lines: list[str] = []

    result = normfold.train(
        tmp_path / "run", arch="mlp", arguments={"widths": [8]}, epochs=2, lr=0.01, progress=lines.append
    )

    assert result.epochs == 2
    assert result.metrics["test_accuracy"] > 0.1
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert (result._repr_html_() or "").startswith('<img alt="Loss and accuracy" src="data:image/png;base64,')
    assert_short_and_frozen(result)
    with pytest.raises(RunFolderError):
        normfold.train(tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, r"`lr` must be greater than 0, not -1.0\."),
        ({"validation_fraction": 0.6, "test_fraction": 0.6}, "`validation_fraction` 0.6 and `test_fraction` 0.6 leave"),
    ],
)
def test_train_names_the_wrong_argument(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        normfold.train(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()
