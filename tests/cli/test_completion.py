"""What a shell completes after `normfold --install-completion`, in a repository with two models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from normfold.cli.completion import ARCHITECTURES
from normfold.models.architectures.registry import FACTORIES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for version in ("digits/1", "digits/2", "digits/10", "wine/1"):
        (tmp_path / "model_repository" / version).mkdir(parents=True)
        (tmp_path / "model_repository" / version / "manifest.json").touch()
    (tmp_path / "model_repository/digits/11.partial").mkdir()
    (tmp_path / "runs/first").mkdir(parents=True)
    (tmp_path / "runs/first/config.json").touch()
    for name in ("net.onnx", "data.npz"):
        (tmp_path / name).touch()
    return tmp_path


def complete(folder: Path, line: str, *options: str) -> list[str]:
    """Return what bash is offered at the end of a line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_NORMFOLD_COMPLETE": "complete_bash"}
    environment = {name: value for name, value in os.environ.items() if name != "NORMFOLD_REPOSITORY"} | words
    command = [sys.executable, *options, str(Path(sys.executable).with_name("normfold"))]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("normfold in", ["inspect"]),
        ("normfold fold --wei", ["--weights", "--weights-key"]),
        ("normfold train --arch res", ["resnet", "resnet18", "resnet34", "resnet50"]),
        ("normfold inspect ", ["model_repository/", "net.onnx", "runs/", "digits", "wine"]),
        ("normfold fold runs/", ["runs/first"]),
        ("normfold unfold d", ["digits"]),
        ("normfold repository rollback ", ["digits", "wine"]),
        ("normfold repository rollback w --repository none", []),
        ("normfold repository delete digits 1", ["10", "1"]),
        ("normfold fold nowhere/", []),
    ],
)
def test_completion_offers_what_is_there(folder: Path, line: str, offered: list[str]) -> None:
    assert complete(folder, line) == offered


@pytest.mark.slow
def test_completion_imports_no_large_package(folder: Path) -> None:
    words = {"COMP_WORDS": "normfold train --arch r", "COMP_CWORD": "3", "_NORMFOLD_COMPLETE": "complete_bash"}
    command = [sys.executable, "-X", "importtime", str(Path(sys.executable).with_name("normfold"))]
    done = subprocess.run(command, cwd=folder, env=os.environ | words, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "onnx", "onnx_ir", "onnxruntime", "fastapi"}


def test_completed_architectures_are_those_that_can_be_built() -> None:
    assert tuple(FACTORIES) == ARCHITECTURES
