"""What `normfold export` says of a torch network that it cannot use, and how a user's own module is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from normfold._shared.sources.source import parse_shape
from normfold.cli.main import main
from normfold.errors import ArgumentError
from normfold.models.architectures.registry import build
from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.training.checkpoint import make_run_config, save_checkpoint
from normfold.models.training.config import TrainConfig

NETS = """
from torch import nn

def img(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(36 * width, 3))

def rows(input_shape, classes):
    return nn.Sequential(nn.Linear(*input_shape, 4), nn.BatchNorm1d(4), nn.Linear(4, classes))
"""

Export = Callable[..., tuple[int, str]]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the name of a package in the current folder, beside weights of both its networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"own_{tmp_path.name}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "nets.py").write_text(NETS)
    img = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    rows = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    for file, network, shape in (("img", img, (1, 8, 8)), ("rows", rows, (5,))):
        network(torch.randn(32, *shape))
        save_file(network.state_dict(), f"{file}.safetensors")
    return name


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Export:
    """Call `normfold export`; return exit code and standard error."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["normfold", "export", *arguments])
        with pytest.raises(SystemExit) as leave:
            main()
        return int(leave.value.code or 0), capsys.readouterr().err

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["{}.nets:img", "--input", "1x8x8"],
            "nets:img' returned its network in train mode (layer '0', for one), and no trained weights; "
            "give --weights, or let it load them itself and return network.eval().",
        ),
        (["{}.nope:img", "--input", "1x8x8"], "There is no module '{}.nope', neither installed nor in the current"),
        (["{}.nets:nope", "--input", "1x8x8"], "has no function 'nope'."),
        (["{}.nets:img", "--weights", "none.safetensors", "--input", "1x8x8"], "'none.safetensors' cannot be read"),
        (
            ["{}.nets:img", "--weights", "rows.safetensors", "--input", "1x8x8"],
            "'rows.safetensors' lacks tensor '3.weight' and 1 more tensors, which the network has",
        ),
        (["{}.nets:rows", "--input", "5"], "nets:rows' needs 'classes'; give --arg classes=VALUE."),
        (["{}.nets:img", "--input", "1x8x8", "--arg", "classes=3"], "has no option 'classes'"),
        (["{}.nets:img", "--weights", "img.safetensors", "--input", "1x9x9"], "does not take inputs of shape"),
        (["{}.nets:img", "--input", "99999999x99999999"], "'99999999x99999999' has more than 268,435,456 values"),
        (
            ["{}.nets:rows", "--weights", "rows.safetensors", "--input", "5", "--arg", "classes=2", "--dynamic-size"],
            "Height and width cannot be dynamic: the network has no floating-point input",
        ),
        (["{}:" + "x" * 5000], "needs --input"),
    ],
)
def test_wrong_use_of_a_factory_is_one_sentence(
    export: Export, package: str, arguments: list[str], message: str
) -> None:
    code, err = export("--name", "n", *(argument.replace("{}", package) for argument in arguments))
    assert code == 2
    assert message.replace("{}", package) in err
    assert err.count("\n") == 1
    assert not Path("model_repository").exists()


@pytest.mark.slow
def test_factory_gets_the_arguments_of_the_option_arg(export: Export, package: str) -> None:
    source = [f"{package}.nets:rows", "--weights", "rows.safetensors", "--input", "5"]
    assert export(*source, "--arg", "classes=2") == (0, "")
    assert Path("model_repository/rows/1/model.onnx").exists()


@pytest.mark.slow
def test_module_in_the_current_folder_is_found_by_the_installed_script(package: str, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("normfold")
    source = [f"{package}.nets:img", "--weights", "img.safetensors", "--input", "1x8x8", "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [script, "export", *source], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fold"]["batchnorm_after"] == 0


@pytest.fixture
def rows_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of a network for rows."""
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,b,y\n" + "".join(f"{row % 11},{row % 7},{row % 2}\n" for row in range(40)))
    data = DataConfig(source="csv:t.csv")
    config = make_run_config("mlp", {"widths": [4]}, data, load_dataset(data), TrainConfig())
    save_checkpoint(Path("run"), build(config.architecture), config)
    return Path("run")


def test_run_for_rows_has_no_size_to_leave_free(export: Export, rows_run: Path) -> None:
    code, err = export(str(rows_run), "--dynamic-size")
    assert code == 2
    assert "cannot be dynamic" in err


def test_config_nested_without_end_is_one_sentence(export: Export, rows_run: Path) -> None:
    (rows_run / "config.json").write_text("[" * 100_000)
    assert export(str(rows_run)) == (2, "error: 'run/config.json' is not a config: its JSON is nested too deeply.\n")


@pytest.mark.slow
def test_full_disk_while_the_network_is_traced_is_of_the_environment(
    export: Export, rows_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, err = export(str(rows_run))
    assert code == 3
    assert "The unfolded model cannot be written to" in err
    assert err.endswith("No space left on device.\n")


@pytest.mark.parametrize("text", ["", "3x", "x3", "3x0", "3x-2", "3×2", "٣", "9" * 5000])
def test_malformed_shape_is_rejected(text: str) -> None:
    with pytest.raises(ArgumentError, match="is not positive numbers joined by x"):
        parse_shape(text)
    assert parse_shape("3x224X0224") == (3, 224, 224)
