"""`normfold audit`, as a user meets it: what is printed, the page, the exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from safetensors.torch import save_file
from torch import nn

from normfold.contract.audit.findings import Finding, Severity
from normfold.models.training.checkpoint import load_checkpoint, save_checkpoint
from tests.support.command import Page, RunCommand
from tests.support.onnx_models import batchnorm, model, set_training_mode

NETS = """
import torch
from torch import nn

def net(classes=3):
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8), nn.BatchNorm1d(8),
                         nn.Linear(8, classes))
"""


@pytest.fixture
def run(normfold: RunCommand, tmp_path: Path) -> Path:
    """A run folder of a network for rows, in the current folder beside its data."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    np.savez("rows.npz", x=rng.normal(size=(240, 4)) + 3 * y[:, None], y=y)
    arguments = "--arch mlp --arg widths=[8,8] --data npz:rows.npz --batch-size 40 --epochs 12 --out run"
    code, _, err = normfold("train", *arguments.split())
    assert code == 0, err
    return tmp_path / "run"


@pytest.fixture
def spoilt(run: Path) -> Path:
    """The same with dead channels in its first norm, and NaN in its second."""
    checkpoint = load_checkpoint(run)
    norms: list[Any] = [module for module in checkpoint.network.modules() if isinstance(module, nn.BatchNorm1d)]
    norms[0].weight.data[:5] = 0
    norms[1].running_mean[0] = float("nan")
    save_checkpoint(run, checkpoint.network, checkpoint.config)
    return run


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the name of a module with a network of the user's own, beside trained weights."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    layers = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
    network = nn.Sequential(*layers)
    for _ in range(60):
        network(torch.randn(64, 4))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    return name


def save_onnx(path: Path, training: bool = False) -> None:
    fields = {"scale": [1, 1], "shift": [0, 0], "mean": [0.1, 0.2], "var": [1, 2]}
    constants = {f"bn.{field}": np.array(values, np.float32) for field, values in fields.items()}
    proto = model([batchnorm("x", "y")], {"x": ["n", 2, 4]}, ["y"], constants, dtype=np.float32)
    if training:
        set_training_mode(proto.graph.node[0])
    onnx.save(proto, path)


@pytest.mark.slow
def test_a_sound_run_has_no_finding(normfold: RunCommand, run: Path) -> None:
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert normfold("audit", "run", "--fail-on", "warning") == (0, "2 BatchNorm layers: nothing was found.\n", "")
    assert files == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_findings_are_a_table_the_worst_first_and_the_exit_code(normfold: RunCommand, spoilt: Path) -> None:
    assert spoilt.exists()
    code, out, err = normfold("audit", "run")
    assert code == 1
    text = " ".join(out.split())
    assert re.match(r"severity layer found what to do error blocks.1.norm", text)
    assert text.index("not-finite") < text.index("dead-channels")
    assert re.search(r"2 BatchNorm layers: \d errors?, \d warnings?\.", text)
    assert re.fullmatch(r"error: \d findings? in 'run' of severity error or above\.\n", err)


@pytest.mark.parametrize(("fail_on", "code"), [("error", 0), ("warning", 1), ("never", 0)])
def test_option_fail_on_sets_the_severity_of_exit_code_1(
    normfold: RunCommand, nets: str, fail_on: str, code: int
) -> None:
    arguments = ("audit", f"{nets}:net", "--weights", "w.safetensors", "--input", "4", "--fail-on", fail_on)
    found, out, err = normfold(*arguments)
    assert found == code
    assert "dropout-before" in out
    assert "Statistics were not compared with data: no data were given." in out
    assert ("of severity warning or above" in err) == bool(code)


@pytest.mark.slow
def test_json_output_has_every_finding_and_every_layer(normfold: RunCommand, spoilt: Path) -> None:
    assert spoilt.exists()
    code, out, _ = normfold("audit", "run", "--json")
    assert code == 1
    record = json.loads(out)
    assert record["source"] == "run"
    first = record["findings"][0]
    assert (first["severity"], first["code"], first["layer"]) == ("error", "not-finite", "blocks.1.norm")
    assert set(first) == {"severity", "code", "layer", "measurement", "advice"}
    assert record["counts"]["error"] == sum(found["severity"] == "error" for found in record["findings"])
    assert [layer["layer"] for layer in record["layers"]] == ["blocks.0.norm", "blocks.1.norm"]
    low, middle, high = record["layers"][0]["gain"]
    assert 0 == low <= middle <= high
    assert [len(layer["variance_ratio"]) for layer in record["layers"]] == [3, 3]


@pytest.mark.slow
def test_page_of_the_audit_has_the_findings_and_a_histogram_for_each_layer(
    normfold: RunCommand, spoilt: Path, tmp_path: Path
) -> None:
    assert spoilt.exists()
    assert normfold("audit", "run", "--html", "page.html", "--fail-on", "never")[0] == 0
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert "Found: " in page.text
    assert "dead-channels" in page.text
    assert text.count('class="histogram"') == 2 * 3
    assert text.count('class="count"') > 6
    assert not re.search(r"https?:|//|@import|url\(", text)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert "default-src 'none'; style-src 'unsafe-inline'" in page.values("content")
    normfold("audit", "run", "--html", "again.html", "--fail-on", "never")
    assert (tmp_path / "again.html").read_text() == text


def test_the_bars_of_a_histogram_count_every_channel() -> None:
    from normfold.display.pages.histogram import Axis, histogram

    axis = Axis(-1.0, 1.0, ((-1.0, "low"), (1.0, "high")))
    drawn = histogram(np.array([-5.0, -1.0, 0.0, 0.0, 0.0, 0.0, 7.0, np.nan]), axis, "of <b>")
    heights = [float(height) for height in re.findall(r'class="count"[^>]* height="([0-9.]+)"', drawn)]
    assert heights == [22.0, 44.0, 11.0]  # two, four and one
    assert "<title>of &lt;b&gt;</title>" in drawn


@pytest.mark.slow
def test_audit_takes_other_data(normfold: RunCommand, run: Path) -> None:
    assert run.exists()
    with np.load("rows.npz") as arrays:
        np.savez("moved.npz", x=arrays["x"] + 20, y=arrays["y"])
    code, out, _ = normfold("audit", "run", "--data", "npz:moved.npz", "--fail-on", "warning")
    assert code == 1
    assert "statistics-stale" in out
    code, _, err = normfold("audit", "run", "--data", "npz:none.npz")
    assert code == 2
    assert "'none.npz' cannot be read" in err


@pytest.mark.slow
def test_audit_without_the_data_checks_the_rest(normfold: RunCommand, run: Path, tmp_path: Path) -> None:
    assert run.exists()
    (tmp_path / "rows.npz").unlink()
    code, out, err = normfold("audit", "run")
    assert (code, err) == (0, "")
    assert "nothing was found." in out
    assert "Statistics were not compared with data: 'rows.npz' cannot be read" in " ".join(out.split())


def test_audit_of_a_custom_network_runs_it_in_train_mode_behind_a_dropout(normfold: RunCommand, nets: str) -> None:
    code, out, _ = normfold("audit", f"{nets}:net", "--data", "digits", "--json")
    assert code == 2  # the digits do not fit its first layer
    code, out, _ = normfold("audit", f"{nets}:net", "--input", "4", "--json")
    assert code == 1
    found = {(one["code"], one["layer"]) for one in json.loads(out)["findings"]}
    assert found >= {("train-mode", "1"), ("train-mode", "4"), ("statistics-unset", "1"), ("dropout-before", "4")}
    assert ("dropout-before", "1") not in found


def test_an_onnx_file_is_audited_without_torch(
    normfold: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    save_onnx(tmp_path / "sound.onnx")
    save_onnx(tmp_path / "training.onnx", training=True)
    code, out, err = normfold("audit", "sound.onnx")
    assert (code, err) == (0, "")
    assert "1 BatchNorm layer: nothing was found." in out
    code, out, err = normfold("audit", "training.onnx", "--html", "page.html")
    assert code == 1
    assert "training_mode=1" in out
    assert "training_mode=1" in Page((tmp_path / "page.html").read_text()).text


def test_page_of_the_audit_escapes_hostile_names(normfold: RunCommand, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    save_onnx(tmp_path / "net.onnx", training=True)
    proto = onnx.load(tmp_path / "net.onnx")
    proto.graph.node[0].name = hostile
    onnx.save(proto, tmp_path / "net.onnx")
    assert normfold("audit", "net.onnx", "--html", "page.html", "--fail-on", "never")[0] == 0
    page = Page((tmp_path / "page.html").read_text())
    assert "script" not in page.tags
    assert hostile in page.text


def test_a_model_without_batchnorm_gets_a_page_too(normfold: RunCommand, tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 2]}, ["y"], {}, dtype=np.float32)
    onnx.save(proto, tmp_path / "relu.onnx")
    code, out, _ = normfold("audit", "relu.onnx", "--html", "page.html")
    assert code == 0
    assert "Nothing to audit: the network has no BatchNorm layer" in out
    assert "Nothing was found." in Page((tmp_path / "page.html").read_text()).text


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["none.onnx"], 2, "'none.onnx' cannot be read"),
        (["neither"], 2, "'neither' is not a run folder, a bundle, an .onnx file or a module:factory"),
        (["net.onnx", "--data", "digits"], 2, "--data is for a run folder or module:factory"),
        (["net.onnx", "--weights", "w.pt"], 2, "--weights goes with module:factory"),
        (["net.onnx", "--html", "net.onnx"], 2, "--html 'net.onnx' is the model itself"),
        (["net.onnx", "--html", "none/page.html"], 3, "Cannot write 'none/page.html': no such file or directory."),
        (["{}:net"], 2, "A module:factory needs --input, the shape of one sample, or --data."),
        (["{}:net", "--input", "4", "--data", "digits"], 2, "--input and --data both give the shape of a sample"),
        (["{}:net", "--input", "5"], 2, "The network does not take samples of shape [5]"),
    ],
)
def test_wrong_use_is_one_sentence(
    normfold: RunCommand, tmp_path: Path, nets: str, arguments: list[str], code: int, says: str
) -> None:
    save_onnx(tmp_path / "net.onnx")
    found, out, err = normfold("audit", *(argument.format(nets) for argument in arguments))
    assert (found, out) == (code, "")
    assert err.startswith(f"error: {says}")
    assert err.count("\n") == 1


def test_severities_are_in_order() -> None:
    assert [severity.reaches(Severity.WARNING) for severity in Severity] == [False, True, True]
    assert Finding(Severity.INFO, "a", None, "b", "c").to_dict()["severity"] == "info"
