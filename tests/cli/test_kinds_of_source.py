"""`inspect`, `fold`, `audit`, `verify` and `quantize` take a run folder, a bundle, an ONNX file or a factory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest
import torch

import normfold
from normfold.cli.main import main
from normfold.models.architectures.registry import build
from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.training.checkpoint import make_run_config, save_checkpoint
from normfold.models.training.config import TrainConfig
from tests.support.command import RunCommand

NETS = """
import torch
from torch import nn

def rows():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
"""

FACTORY = ("kinds_of_source_nets:rows", "--input", "2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, its bundle, the unfolded ONNX file, and a module with a factory."""
    folder = tmp_path_factory.mktemp("sources")
    lines = "".join(f"{row % 11},{row % 7},{row % 2}\n" for row in range(200))
    (folder / "t.csv").write_text(f"a,b,y\n{lines}")
    data = DataConfig(source=f"csv:{folder / 't.csv'}")
    config = make_run_config("mlp", {"widths": [4]}, data, load_dataset(data), TrainConfig())
    torch.manual_seed(0)
    save_checkpoint(folder / "run", build(config.architecture), config)
    normfold.export(folder / "run", folder / "models", name="net")
    normfold.export(folder / "run", folder / "models", name="bare", keep_source=False)
    (folder / "net.onnx").write_bytes((folder / "models/net/1/unfolded.onnx").read_bytes())
    (folder / "kinds_of_source_nets.py").write_text(NETS)
    return folder


@pytest.fixture
def run(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Give a function that runs the command in that folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(made)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("NORMFOLD_REPOSITORY", "models")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["normfold", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


SOURCES = {
    "run": ("run",),
    "bundle": ("models/net",),
    "version": ("models/net/1",),
    "name": ("net",),
    "file": ("net.onnx",),
    "factory": FACTORY,
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_source_of_every_kind_is_taken_by_every_command(run: RunCommand, source: tuple[str, ...]) -> None:
    code, out, err = run("inspect", *source, "--json")
    assert code == 0, err
    assert json.loads(out)["batchnorm_before"] == 1

    code, out, err = run("fold", *source, "folded.onnx", "--force", "--json")
    assert code == 0, err
    assert json.loads(out)["batchnorm_after"] == 0
    assert "BatchNormalization" not in {node.op_type for node in onnx.load("folded.onnx").graph.node}

    code, _, err = run("verify", *source, "folded.onnx")
    assert (code, err) == (0, "")

    code, out, err = run("audit", *source, "--json", "--fail-on", "never")
    assert code == 0, err
    assert len(json.loads(out)["layers"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "source", [SOURCES["run"], SOURCES["file"], SOURCES["factory"]], ids=["run", "file", "factory"]
)
def test_quantize_writes_a_file_of_what_is_no_bundle(run: RunCommand, source: tuple[str, ...]) -> None:
    code, _, err = run("quantize", *source, "half.onnx", "--precision", "float16", "--force")
    assert code == 0, err
    code, _, err = run("quantize", *source, "--precision", "float16")
    assert (code, "name the file to write after it" in err) == (2, True)


@pytest.mark.slow
def test_verify_finds_the_bundle_of_another_network(run: RunCommand) -> None:
    assert run("verify", "net")[0] == 0, "the served model of a bundle with its unfolded one"
    assert run("verify", "run", "models/net")[0] == 0, "statistics are recalibrated as by export"
    code, _, err = run("verify", "run", "models/net", "--keep-statistics")
    assert (code, "'models/net' does not reproduce 'run'" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["inspect", "none"],
            "'none' is not a run folder, a bundle, an .onnx file or a module:factory; normfold train",
        ),
        (["fold", "models", "x.onnx"], "'models' is a repository; name one of its models, such as 'models/bare'."),
        (
            ["inspect", "run/weights.safetensors"],
            "holds weights without a network; name module:factory, with --weights",
        ),
        (["inspect", "."], "'.' is not a run folder"),
        (["audit", "bare"], "The bundle 'bare' was written without its unfolded model; normfold unfold restores that."),
        (["audit", "net", "--data", "digits"], "a bundle is audited without data."),
        (["verify", "run"], "'run' is one model; name the model to compare with it, too."),
        (["verify", "net", "net.onnx", "--input", "2"], "goes with module:factory; 'net' is a bundle."),
        (["verify", "net", "net.onnx", "--keep-statistics"], "--keep-statistics goes with a run folder"),
        (["fold", "net", "x.onnx", "--opset", "17"], "No such option"),
        (["export", "net"], "'net' is a bundle already; normfold quantize converts it"),
        (["repair", "net", "x.onnx"], "'net' is not an ONNX file, and normfold repair takes no other source"),
        (["unfold", "run"], "'run' is a run folder, whose network is not folded"),
        (["unfold", FACTORY[0]], "is a module:factory, whose network is not folded"),
        (["fold", "net.onnx", "x.onnx", "--input", "in.npz"], "'in.npz' is for --inputs."),
        (["fold", "net.onnx", "x.onnx", "--inputs", "3x8x8"], "'3x8x8' is for --input."),
        (["inspect", *FACTORY[:2], "uint8:2"], "makes a network take pixels, which fold and export do"),
        (["fold", "net.onnx", "models/net/1/model.onnx"], "'models/net/1/model.onnx' exists already"),
        (["fold", "net", "models/net/1/model.onnx"], "exists already"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_source_that_does_not_fit_is_one_sentence(
    run: RunCommand, made: Path, arguments: list[str], message: str
) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert before == {path: path.read_bytes() for path in before}
    assert not Path("x.onnx").exists()


def test_bundle_is_not_read_where_a_file_of_it_was_changed(run: RunCommand, made: Path) -> None:
    folded = made / "models/bare/1/model.onnx"
    content = folded.read_bytes()
    folded.write_bytes(content + b" ")
    code, _, err = run("inspect", "bare")
    folded.write_bytes(content)
    assert (code, "its sha256 differs" in err) == (1, True)
