"""`--input uint8`, as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from normfold.contract.manifest import read_manifest
from normfold.contract.record import to_json
from normfold.contract.source_card import SourceCard
from tests.support.command import RunCommand
from tests.support.onnx_models import COLOUR_CARD, colour_convnet


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(colour_convnet(np.random.default_rng(0)), path)
    return path


def test_fold_takes_the_card_beside_the_model(normfold: RunCommand, net: Path) -> None:
    net.with_suffix(".json").write_text(to_json(SourceCard(preprocessing=COLOUR_CARD)))

    code, out, _ = normfold("fold", "net.onnx", "folded.onnx", "--input", "uint8")

    assert code == 0
    assert "Input 'x' takes 8-bit pixels, 0 to 255; their standardisation is folded all but Add." in " ".join(
        out.split()
    )
    assert onnx.load(net.with_name("folded.onnx")).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_verify_compares_pixels_with_their_standardised_tensors(normfold: RunCommand, net: Path) -> None:
    net.with_name("card.json").write_text(to_json(SourceCard(preprocessing=COLOUR_CARD)))
    assert normfold("fold", "net.onnx", "folded.onnx", "--input", "uint8", "--card", "card.json")[0] == 0

    assert normfold("verify", "net.onnx", "folded.onnx", "--card", "card.json")[0] == 0
    code, _, err = normfold("verify", "net.onnx", "folded.onnx")
    assert code == 2
    assert "has other inputs than 'net.onnx'" in err


def test_export_writes_the_input_datatype_into_the_manifest(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    net.with_suffix(".json").write_text(to_json(SourceCard(preprocessing=COLOUR_CARD)))

    code, out, _ = normfold("export", "net.onnx", "--name", "net", "--input", "uint8", "--json")

    assert code == 0
    assert json.loads(out)["fold"]["input"] == {"name": "x", "datatype": "UINT8", "left": ["Add"]}
    manifest = read_manifest(tmp_path / "model_repository" / "net" / "1" / "manifest.json")
    assert manifest.takes_pixels
    assert manifest.inputs[0].datatype == "UINT8"
    assert manifest.card.preprocessing == COLOUR_CARD
    unfolded = onnx.load(tmp_path / "model_repository" / "net" / "1" / "unfolded.onnx")
    assert unfolded.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fold", "net.onnx", "out.onnx", "--input", "uint8"], "Nothing says how pixels become the input 'x'"),
        (["fold", "net.onnx", "out.onnx", "--input", "float16"], "--input 'float16' is not uint8"),
        (["fold", "net.onnx", "out.onnx", "--card", "c.json"], "--card goes with --input uint8"),
        (["export", "net.onnx", "--input", "uint8"], "Nothing says how pixels become the input 'x'"),
        (["export", "net.onnx", "--input", "uint8:3x6x6"], "A shape in --input goes with module:factory"),
        (["export", "net.onnx", "--input", "3x6x6"], "A shape in --input goes with module:factory"),
    ],
)
def test_pixel_input_that_cannot_be_folded_is_an_error_and_writes_nothing(
    arguments: list[str], message: str, normfold: RunCommand, net: Path
) -> None:
    code, _, err = normfold(*arguments)

    assert code == 2
    assert message in " ".join(err.split())
    assert list(net.parent.rglob("*")) == [net]
