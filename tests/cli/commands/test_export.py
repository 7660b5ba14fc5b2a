"""The commands that fold, prove and export, as a user meets them: what is printed, what is written, the exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from normfold.contract.record import to_json
from normfold.contract.source_card import SourceCard
from tests.support.command import RunCommand
from tests.support.onnx_models import conv_blocks, model, set_training_mode, small_convnet

FACTORY = """
import torch

def net(width=4):
    layers = torch.nn.Conv2d(1, width, 3), torch.nn.BatchNorm2d(width), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(36 * width, 3))

def ready():
    return net().eval()
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(small_convnet(np.random.default_rng(0)), path)
    return path


def test_fold_writes_the_model_and_the_report(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    code, out, _ = normfold("fold", "net.onnx", "folded.onnx", "--report", "report.json")

    assert code == 0
    assert "1 of 1 BatchNormalization nodes folded (1 folded back)." in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["batchnorm_before"], report["batchnorm_after"]) == (1, 0)
    (entry,) = report["entries"]
    assert (entry["node"], entry["outcome"], entry["into"], entry["reason"]) == ("bn", "folded back", "conv", None)
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node}
    assert net.exists()


def test_fold_warns_of_a_batchnorm_in_training_mode_beside_a_frozen_one(normfold: RunCommand, tmp_path: Path) -> None:
    source = conv_blocks(np.random.default_rng(0), 2)
    set_training_mode(next(node for node in source.graph.node if node.name == "bn0"))
    onnx.save(source, tmp_path / "net.onnx")

    code, out, err = normfold("fold", "net.onnx", "folded.onnx", "--json")

    record = json.loads(out)
    assert code == 0
    assert "1 of 2 BatchNormalization nodes are in training mode and were kept: 'bn0'" in " ".join(err.split())
    assert (record["batchnorm_before"], record["batchnorm_after"]) == (2, 1)
    assert record["verification"]["batchable"] is False


def test_inputs_with_a_default_are_frozen_on_request(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    proto = onnx.load(net)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.save(proto, net)

    _, out, _ = normfold("fold", "net.onnx", "folded.onnx", "--json")
    assert "--freeze-inputs" in json.loads(out)["entries"][0]["reason"]

    code, out, _ = normfold("fold", "net.onnx", "folded.onnx", "--freeze-inputs", "--force")
    assert code == 0
    assert "1 of 1 BatchNormalization nodes folded" in out
    assert [value.name for value in onnx.load(tmp_path / "folded.onnx").graph.input] == ["x"]


def test_json_output_of_fold(normfold: RunCommand, net: Path) -> None:
    assert net.exists()
    code, out, _ = normfold("fold", "net.onnx", "folded.onnx", "--json")

    record = json.loads(out)
    assert code == 0
    assert record["verification"]["passes"] is True
    assert record["target"] == "folded.onnx"


def test_fold_may_replace_its_source(normfold: RunCommand, net: Path) -> None:
    code, _, err = normfold("fold", "net.onnx", "net.onnx")
    assert (code, err.endswith("name another file to write, or give --force.\n")) == (2, True)
    assert normfold("fold", "net.onnx", "net.onnx", "--force")[0] == 0
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(net).graph.node}


def test_a_wrong_fold_exits_with_1_and_writes_nothing(
    normfold: RunCommand, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normfold.export.fold.batchnorm_parameters.DEFAULT_EPSILON", 1e-3)

    code, out, err = normfold("fold", "net.onnx", "folded.onnx", "--report", "report.json")

    assert code == 1
    assert out == ""
    assert "error: Output 'y' differs by" in err
    assert [path.name for path in tmp_path.iterdir()] == [net.name]


@pytest.mark.slow
def test_verify_passes_equal_models_and_fails_different_ones(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    normfold("fold", "net.onnx", "folded.onnx")
    assert normfold("verify", "net.onnx", "folded.onnx")[0] == 0

    proto = onnx.load(tmp_path / "folded.onnx")
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "b")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01), "b"))
    onnx.save(proto, tmp_path / "wrong.onnx")
    code, out, err = normfold("verify", "net.onnx", "wrong.onnx")

    assert code == 1
    assert "different" in out
    assert "error: 'wrong.onnx' does not reproduce 'net.onnx'." in err
    code, out, _ = normfold("verify", "net.onnx", "wrong.onnx", "--json")
    assert code == 1
    assert json.loads(out)["passes"] is False
    assert net.exists()


def test_inspect_shows_the_plan_of_a_fold_and_writes_nothing(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    before = net.read_bytes()

    code, out, _ = normfold("inspect", "net.onnx")

    assert code == 0
    assert "folded back" in out
    assert "can be folded" in out
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert net.read_bytes() == before


def test_inspect_says_that_a_model_has_no_batchnorm(normfold: RunCommand, tmp_path: Path) -> None:
    proto = model([onnx.helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 2]}, ["y"], {}, dtype=np.float32)
    onnx.save(proto, tmp_path / "relu.onnx")

    assert normfold("inspect", "relu.onnx") == (0, "There is no BatchNormalization in this model.\n", "")


@pytest.mark.parametrize("command", [["inspect"], ["fold", "--no-verify"], ["verify"], ["export"]])
def test_a_missing_model_exits_with_2(normfold: RunCommand, command: list[str]) -> None:
    files = ["none.onnx", "out.onnx"] if command[0] in ("fold", "verify") else ["none.onnx"]

    code, out, err = normfold(*command, *files)

    assert (code, out) == (2, "")
    assert err == "error: 'none.onnx' cannot be read: No such file or directory.\n"


def test_a_target_that_cannot_be_written_exits_with_3(normfold: RunCommand, net: Path) -> None:
    assert net.exists()
    code, _, err = normfold("fold", "net.onnx", "none/out.onnx")

    assert code == 3
    assert err == "error: Cannot write 'none/out.onnx': no such file or directory.\n"


def test_export_of_an_onnx_file_reads_the_card_beside_it(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    net.with_suffix(".json").write_text(to_json(SourceCard(labels=("a", "b", "c"), logits=("y",))))

    code, out, _ = normfold("export", "net.onnx", "--repository", "repo", "--name", "mine")

    assert code == 0
    assert "repo/mine/1" in out
    manifest = json.loads((tmp_path / "repo/mine/1/manifest.json").read_text())
    assert manifest["card"]["labels"] == ["a", "b", "c"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [99, 100])
def test_export_says_whether_the_calibration_rows_give_thresholds(
    normfold: RunCommand, net: Path, tmp_path: Path, count: int
) -> None:
    assert net.exists()
    x = np.random.default_rng(0).normal(size=(count, 4, 5, 5)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=x)

    code, out, err = normfold("export", "net.onnx", "--calibration", "rows.npz", "--name", "text")
    monitor = json.loads(normfold("export", "net.onnx", "--calibration", "rows.npz", "--json")[1])["monitor"]

    assert code == 0
    assert ("The calibration inputs give no threshold: at least 100 rows are needed" in err) is (count == 99)
    says = (
        "thresholds come from 100 calibration rows." if count == 100 else "without thresholds, which need at least 100"
    )
    remedy = "export again with --calibration FILE, an .npz of at least 100 rows of normal inputs."
    for sentence in (" ".join(out.split()), monitor["sentence"]):
        assert says in sentence
        assert (remedy in sentence) is (count == 99)


def test_export_for_triton_writes_its_configuration(normfold: RunCommand, net: Path) -> None:
    code, out, _ = normfold("export", net.name, "--triton", "--json")

    assert code == 0
    assert json.loads(out)["triton"] == {"name": "net", "config": "model_repository/net/config.pbtxt", "notes": []}
    written = Path("model_repository/net/config.pbtxt")
    assert 'name: "net"' in written.read_text()
    written.write_text("max_batch_size: 1\n")
    code, _, err = normfold("export", net.name, "--triton")
    assert (code, "was not written by normfold" in " ".join(err.split())) == (2, True)
    assert not Path("model_repository/net/2").exists()


@pytest.mark.slow
def test_export_for_triton_of_other_tensors_says_that_the_bundle_is_written(
    normfold: RunCommand, net: Path, tmp_path: Path
) -> None:
    onnx.save(small_convnet(np.random.default_rng(0), batch=2), tmp_path / "fixed.onnx")
    assert normfold("export", net.name, "--triton")[0] == 0

    code, _, err = normfold("export", "fixed.onnx", "--name", "net", "--triton")

    text = " ".join(err.split())
    assert code == 2
    assert "'model_repository/net/2' is written, its configuration for Triton is not: Versions 1 and 2" in text


def test_export_of_an_onnx_file_needs_no_torch(
    normfold: RunCommand, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert net.exists()
    monkeypatch.setitem(sys.modules, "torch", None)

    code, out, _ = normfold("export", "net.onnx", "--json")

    record = json.loads(out)
    assert code == 0
    assert (record["name"], record["version"], record["bundle"]) == ("net", 1, "model_repository/net/1")


def test_export_writes_to_the_repository_of_the_environment(
    normfold: RunCommand, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMFOLD_REPOSITORY", "elsewhere")

    code, out, _ = normfold("export", "net.onnx", "--json")

    assert (code, json.loads(out)["bundle"]) == (0, "elsewhere/net/1")
    assert (net.parent / "elsewhere" / "net" / "1" / "model.onnx").is_file()


def test_a_version_that_exists_is_not_overwritten(normfold: RunCommand, net: Path) -> None:
    assert net.exists()
    normfold("export", "net.onnx", "--version", "3")

    code, _, err = normfold("export", "net.onnx", "--version", "3")

    assert code == 2
    assert err == "error: Version 3 of 'net' exists; a version is never overwritten.\n"


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the name of a module with a user's own networks, beside the weights of one."""
    import torch

    name = f"nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    layers = torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    network_ = torch.nn.Sequential(*layers)
    network_(torch.randn(32, 1, 8, 8))
    torch.save(network_.state_dict(), tmp_path / "weights.pt")
    return name


@pytest.mark.slow
def test_export_of_a_factory_with_weights(normfold: RunCommand, factory: str) -> None:
    code, out, _ = normfold(
        "export", f"{factory}:net", "--weights", "weights.pt", "--input", "1x8x8", "--arg", "width=4", "--json"
    )

    record = json.loads(out)
    assert code == 0
    assert (record["name"], record["batchable"]) == ("net", True)
    assert (record["fold"]["batchnorm_before"], record["fold"]["batchnorm_after"]) == (1, 0)


@pytest.mark.slow
def test_export_of_a_factory_in_evaluation_mode_warns_of_unset_statistics(normfold: RunCommand, factory: str) -> None:
    code, _, err = normfold("export", f"{factory}:ready", "--input", "1x8x8")

    assert code == 0
    assert "probably never set by training" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{}:net", "--input", "1x8x8"], "train mode"),
        (["{}:net", "--weights", "weights.pt"], "needs --input"),
        (["{}:net", "--weights", "weights.pt", "--input", "1xbx8"], "shape '1xbx8' is not positive numbers"),
        (["{}:net", "--weights", "none.pt", "--input", "1x8x8"], "'none.pt'"),
        (["{}:net", "--weights", "weights.pt", "--input", "1x8x8", "--arg", "width=5"], "weights.pt"),
        (["{}:net", "--input", "1x8x8", "--arg", "height=5"], "height"),
        (["{}:none", "--input", "1x8x8"], "none"),
        (["nowhere_at_all:net", "--input", "1x8x8"], "nowhere_at_all"),
        ([""], "SOURCE must be a path, not ''."),
        (["net.onnx", "--version", "0"], "--version must be a whole number of at least 1, not 0."),
        (["neither"], "'neither' is not a run folder, a bundle, an .onnx file or a module:factory"),
        (["net.onnx", "--weights", "weights.pt"], "--weights goes with module:factory; 'net.onnx' is an ONNX file"),
        (["net.onnx", "--opset", "18"], "an ONNX file keeps its own"),
        (["net.onnx", "--name", "a/b"], "The name 'a/b' cannot be served"),
        (["net.onnx", "--card", "none.json"], "'none.json' cannot be read"),
    ],
)
def test_a_wrong_source_or_option_exits_with_2(
    normfold: RunCommand, net: Path, factory: str, tmp_path: Path, arguments: list[str], says: str
) -> None:
    assert net.exists()
    code, out, err = normfold("export", *(argument.format(factory) for argument in arguments))

    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "model_repository").exists()


@pytest.mark.parametrize(
    "command", ["train", "export", "fold", "inspect", "verify", "audit", "adapt", "serve", "study"]
)
def test_help_has_an_example(normfold: RunCommand, command: str) -> None:
    code, out, _ = normfold(command, "--help")

    assert code == 0
    assert f"normfold {command}" in out.split("Example:")[1]
