"""`normfold repair`: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import normfold as api
from tests.support.command import RunCommand
from tests.support.onnx_models import conv_blocks, set_training_mode, small_convnet


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A network in training mode, training.onnx, and samples for it, samples.npz."""
    proto = small_convnet(np.random.default_rng(0))
    set_training_mode(proto.graph.node[1])
    onnx.save(proto, tmp_path / "training.onnx")
    np.savez(tmp_path / "samples.npz", x=np.random.default_rng(1).normal(2, 3, (40, 4, 5, 5)).astype(np.float32))
    return tmp_path / "training.onnx"


def test_repaired_file_is_folded_and_its_nodes_are_named(normfold: RunCommand, training: Path) -> None:
    assert normfold("fold", "training.onnx", "folded.onnx")[0] == 2

    code, out, err = normfold("repair", "training.onnx", "repaired.onnx")

    assert code == 0
    assert "warning: The outputs change: BatchNormalization 'bn' normalised by the batch" in " ".join(err.split())
    assert "take new ones with --samples." in " ".join(err.split())
    assert ["bn", "training", "mode", "stored"] in [line.split() for line in out.splitlines()]
    assert "1 BatchNormalization node repaired in 'repaired.onnx'." in out
    assert normfold("fold", "repaired.onnx", "folded.onnx")[0] == 0
    assert training.exists()


def test_json_output_of_repair_is_the_record(normfold: RunCommand, training: Path) -> None:
    code, out, err = normfold("repair", str(training), "repaired.onnx", "--samples", "samples.npz", "--json")

    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "target": "repaired.onnx",
        "nodes": [{"node": "bn", "cause": "training mode", "statistics": "samples"}],
        "removed_outputs": [],
        "warnings": [],
    }


def test_file_with_nothing_to_repair_is_written(normfold: RunCommand, tmp_path: Path) -> None:
    onnx.save(conv_blocks(np.random.default_rng(0), 1), tmp_path / "net.onnx")
    code, out, err = normfold("repair", "net.onnx", "same.onnx")
    assert (code, err) == (0, "")
    assert "0 BatchNormalization nodes repaired in 'same.onnx'. No BatchNormalization normalises by the batch." in out
    assert (tmp_path / "same.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["none.onnx", "out.onnx"], 2, "'none.onnx' cannot be read: No such file or directory."),
        (["training.onnx", "."], 3, "it is a folder"),
        (["training.onnx", "out.onnx", "--samples", "none.npz"], 2, "'none.npz' cannot be read"),
        (["training.onnx", "out.onnx", "--samples", "few.npz"], 1, "5 samples are too few: at least 32 are needed"),
    ],
)
def test_wrong_use_of_repair_is_one_sentence_and_writes_nothing(
    normfold: RunCommand, training: Path, arguments: list[str], code: int, says: str
) -> None:
    np.savez(training.with_name("few.npz"), x=np.random.default_rng(1).normal(size=(5, 4, 5, 5)).astype(np.float32))
    found, out, err = normfold("repair", *arguments)
    assert (found, out) == (code, "")
    assert says in " ".join(err.split())
    assert not training.with_name("out.onnx").exists()


def test_python_function_repairs(training: Path) -> None:
    result = api.repair(training, training.with_name("out.onnx"))
    assert repr(result) == f"RepairResult({str(training.with_name('out.onnx'))!r}: 1 BatchNormalization node repaired)"
    assert [(node.node, node.statistics) for node in result.nodes] == [("bn", "stored")]
