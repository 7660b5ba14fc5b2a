"""A network for masks with pixels without a class: from training to an int8 export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from normfold.contract.manifest import read_manifest
from normfold.export.quantize.proof import time_ratio
from normfold.models.data.data import DataConfig, load_dataset
from tests.support.command import RunCommand, in_one_line


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Sixty images, and masks of two classes with 255 in four of ten pixels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (60, 8, 8)).astype(np.uint8)
    x = (y + rng.uniform(0, 0.8, y.shape)).astype(np.float32)
    y[rng.uniform(size=y.shape) < 0.4] = 255
    np.savez(tmp_path / "masks.npz", x=x, y=y)
    return tmp_path / "masks.npz"


TRAIN = "train --arch unet --arg widths=[4] --data npz:masks.npz --batch-size 32 --epochs 15 --lr 0.05 --out run --json"


@pytest.mark.slow
def test_ignored_pixels_leave_two_classes_up_to_the_int8_export(
    normfold: RunCommand, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_ratio, "SECONDS", 0.0)
    code, out, err = normfold(*TRAIN.split(), "--ignore-index", "255")
    assert (code, "ignore-index" in err) == (0, False), err
    assert json.loads(out)["accuracy"] > 0.9

    code, _, err = normfold("export", "run", "--precision", "int8", "--force", "--max-drop", "0.5")

    assert code == 0, err
    version = tmp_path / "model_repository/run/1"
    manifest = read_manifest(version / "manifest.json")
    assert manifest.card.labels == ("0", "1")
    assert manifest.precision is not None
    accuracy = manifest.precision.proof.accuracy
    dataset = load_dataset(DataConfig(source=f"npz:{masks}", ignore_index=255))
    rows = np.sort(np.concatenate([dataset.splits.validation, dataset.splits.test]))
    (logits,) = onnxruntime.InferenceSession(version / "model.onnx").run(None, {"input": dataset.tensors(rows)})
    true = np.load(masks)["y"][rows]
    assert accuracy is not None
    assert accuracy.after == pytest.approx((logits.argmax(1) == true)[true != 255].mean(), rel=1e-12)


@pytest.mark.slow
def test_training_names_the_option_where_masks_hold_255(normfold: RunCommand, masks: Path) -> None:
    code, _, err = normfold(*TRAIN.split())

    assert (code, masks.name in err) == (0, True)
    assert "leave them out with --ignore-index 255." in in_one_line(err)


def test_ignored_value_of_data_without_masks_exits_with_2(normfold: RunCommand, tmp_path: Path) -> None:
    np.savez("rows.npz", x=np.random.default_rng(0).normal(size=(30, 2)), y=np.arange(30) % 2)

    code, out, err = normfold("train", "--data", "npz:rows.npz", "--ignore-index", "255", "--out", "run")

    assert (code, out, (tmp_path / "run").exists()) == (2, "", False)
    assert "--ignore-index is for masks; 'npz:rows.npz' has one class for each sample." in in_one_line(err)
