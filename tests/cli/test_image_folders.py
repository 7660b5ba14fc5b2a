"""Folders of images: from two folders, of images and masks, to a served mask; and from files larger than memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normfold.contract.manifest import read_manifest
from normfold.service.app import create_app
from normfold.service.settings import Settings
from tests.support.command import RunCommand, in_one_line
from tests.support.service import serve_app

SIZE = (12, 16)


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Sixty JPEG images with a bright block on a dark ground, and their masks in a palette with 255 at its edge."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "street" / name).mkdir(parents=True)
    for number in range(60):
        mask = np.zeros(SIZE, np.uint8)
        top, left = rng.integers(0, 6), rng.integers(0, 8)
        mask[top : top + 6, left : left + 8] = 1
        pixels = (40 + 170 * mask[..., None] + rng.integers(0, 40, (*SIZE, 3))).astype(np.uint8)
        mask[top, left : left + 8] = 255
        image = Image.fromarray(mask, "P")
        image.putpalette([one % 256 for one in range(768)])
        image.save(tmp_path / "street" / "masks" / f"{number:02}.png")
        Image.fromarray(pixels).save(tmp_path / "street" / "images" / f"{number:02}.jpg", quality=95)
    (tmp_path / "street" / "classes.txt").write_text("ground\nblock\n")
    return tmp_path / "street"


TRAIN = "train --arch unet --arg widths=[6,12] --data street --image-size 12x16 --ignore-index 255 --out run"


@pytest.mark.slow
def test_two_folders_become_a_served_mask(normfold: RunCommand, street: Path, tmp_path: Path) -> None:
    code, out, err = normfold(*TRAIN.split(), "--epochs", "15", "--batch-size", "32", "--json")
    assert code == 0, err
    assert "Data 'street' are read as 'masks:street'." in in_one_line(err)
    assert json.loads(out)["mean_iou"] > 0.9

    code, _, err = normfold("export", "run", "--name", "street")

    assert code == 0, err
    card = read_manifest(tmp_path / "model_repository/street/1/manifest.json").card
    assert card.labels == ("ground", "block")
    assert card.running_statistics is not None  # taken again from the two folders
    pixels = np.asarray(Image.open(street / "images/07.jpg")).transpose(2, 0, 1)
    mask = np.asarray(Image.open(street / "masks/07.png"))
    settings = Settings(repository=tmp_path / "model_repository", provider="cpu")
    with serve_app(create_app(settings), settings) as service:
        service.wait_until_loaded()
        answer = service.client.post("/v1/models/street:predict", json={"instances": [pixels.tolist()]})
    assert answer.status_code == 200, answer.text
    served = np.asarray(answer.json()["predictions"][0]["mask"])
    assert (served == mask)[mask != 255].mean() > 0.95


@pytest.mark.slow
def test_training_from_files_ends_with_the_same_weights_for_any_number_of_workers(
    normfold: RunCommand, street: Path, tmp_path: Path
) -> None:
    assert street.is_dir()
    weights = {}
    for workers in ("0", "2"):
        run = TRAIN.replace("--out run", f"--out run{workers} --from-files --workers {workers}")
        code, _, err = normfold(*run.split(), "--epochs", "2", "--batch-size", "32")
        assert code == 0, err
        weights[workers] = (tmp_path / f"run{workers}/weights.safetensors").read_bytes()
    assert weights["0"] == weights["2"]
    code, _, err = normfold("export", "run2", "--name", "street")
    assert (code, "has changed" in err) == (0, False)
