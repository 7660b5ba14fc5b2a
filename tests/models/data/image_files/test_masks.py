from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normfold.contract.source_card import IGNORED
from normfold.models.data.data import DataConfig, Dataset, load_dataset
from normfold.models.data.image_files.decoded import read_mask, resize_mask
from normfold.models.data.image_files.masks import read_masks
from normfold.models.errors import DataError, TrainingWarning

EVERY = np.arange(10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten grey images of 6 x 4 pixels, and masks of 0, 1 and 255 in every form that tools write."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for number in range(10):
        mask = rng.choice([0, 1, 255], (6, 4)).astype(np.uint8)
        mask[:2] = 0, 1, 0, 1
        Image.fromarray(np.where(mask == 1, 200, 50).astype(np.uint8)).save(tmp_path / "images" / f"{number}.png")
        write_mask(tmp_path / "masks" / f"{number}.png", mask, ("L", "P", "RGB", "I;16", "LA")[number % 5])
        np.save(tmp_path / f"{number}.npy", mask)
    return tmp_path


def write_mask(path: Path, mask: np.ndarray, mode: str) -> None:
    if mode == "P":
        image = Image.fromarray(mask, "P")
        image.putpalette([(7 * one) % 256 for one in range(768)])
    elif mode == "I;16":
        image = Image.fromarray(mask.astype(np.uint16))
    else:
        image = Image.fromarray(mask).convert(mode)
    image.save(path)


def load(folder: Path, in_memory: bool | None = None, **options: int) -> Dataset:
    source = f"masks:{folder}"
    return load_dataset(DataConfig(source=source, image_size=(6, 4), channels=1, in_memory=in_memory, **options))


@pytest.mark.parametrize("in_memory", [True, False])
def test_masks_of_every_form_hold_the_classes_of_their_pixels(folder: Path, in_memory: bool) -> None:
    dataset = load(folder, in_memory, ignore_index=255)
    wanted = np.stack([np.load(folder / f"{number}.npy") for number in EVERY]).astype(np.int64)
    wanted[wanted == 255] = IGNORED
    assert (dataset.y[EVERY] == wanted).all()
    assert (dataset.labels, dataset.target_shape) == (("0", "1"), (6, 4))
    assert ((dataset.x[EVERY][:, 0] == 200) == (wanted == 1)).all()
    assert (folder / "classes.txt").write_text("road\nsky\n\n") > 0
    assert load(folder, in_memory, ignore_index=255).labels == ("road", "sky")


def test_masks_with_255_give_a_warning_unless_it_is_ignored(folder: Path) -> None:
    with pytest.warns(TrainingWarning, match="hold the value 255, which becomes a class"):
        assert load(folder).labels == ("0", "1", "255")
    with pytest.warns(TrainingWarning, match="No pixel of the masks of '.*masks' holds 7"):
        load(folder, ignore_index=7)


def test_masks_are_resized_to_the_nearest_pixel_as_pillow_does() -> None:
    rng = np.random.default_rng(0)
    for shape, size in (((7, 5), (14, 15)), ((90, 61), (17, 9)), ((4, 4), (4, 4)), ((33, 100), (32, 64))):
        mask = rng.integers(0, 256, shape).astype(np.uint8)
        image = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
        assert (resize_mask(mask, *size) == np.asarray(image)).all()


def test_bilevel_mask_holds_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(np.eye(3, dtype=bool)).save(tmp_path / "a.png")
    assert (read_mask(tmp_path / "a.png") == np.eye(3)).all()


def test_images_folder_with_images_and_masks_is_one_of_masks(folder: Path) -> None:
    with pytest.warns(TrainingWarning, match="255"):
        assert load_dataset(DataConfig(source=f"images:{folder}", image_size=(6, 4))).target_shape == (6, 4)


def spoil(folder: Path, what: str) -> None:
    """Make one of the folder's files unusable."""
    mask, pixels = folder / "masks" / "3.png", np.zeros((6, 4), np.uint8)
    match what:
        case "missing":
            mask.unlink()
        case "size":
            Image.fromarray(np.zeros((4, 6), np.uint8)).save(mask)
        case "colours":
            Image.fromarray(np.stack([pixels, pixels, pixels + 9], axis=2)).save(mask)
        case "damaged":
            mask.write_bytes(mask.read_bytes()[:40])
        case "ignored":
            Image.fromarray(pixels + 255).save(mask)
        case "unnamed":
            (folder / "classes.txt").write_text("road\n")
        case "repeated name":
            (folder / "classes.txt").write_text("road\nroad\n")
        case "two images":
            (folder / "images" / "3.jpg").write_bytes(b"")
        case "no masks":
            (folder / "masks").rename(folder / "labels")
        case "image":
            (folder / "images" / "3.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "Image '.*images/3.png' has no mask '.*masks/3.png'.$"),
        ("size", "Mask '.*masks/3.png' is of 4x6 pixels, its image '3.png' of 6x4.$"),
        ("colours", "Mask '.*masks/3.png' holds colours; a mask holds a number for each pixel"),
        ("damaged", "Mask '.*masks/3.png' cannot be read as PNG: "),
        ("ignored", "Mask '.*masks/3.png' holds only 255, the `ignore_index`; leave the image out.$"),
        ("unnamed", "Mask '.*masks/0.png' holds 1, and '.*classes.txt' names the classes 0 to 0.$"),
        ("repeated name", "'.*classes.txt' must hold the name of a class on each line, each once"),
        ("two images", "'.*images/3.png' and '3.jpg' have one name before the suffix; rename one.$"),
        ("no masks", "There is no folder '.*masks'; masks:DIR needs `images` and `masks` in it.$"),
        ("image", "'.*images/3.png' cannot be used: it is no readable PNG or JPEG file"),
    ],
)
def test_unusable_files_of_masks_are_named(folder: Path, what: str, message: str) -> None:
    spoil(folder, what)
    with pytest.raises(DataError, match=message):
        load(folder, ignore_index=255)


def test_mask_without_an_image_is_ignored_with_a_warning(folder: Path) -> None:
    (folder / "images" / "3.png").unlink()
    with pytest.warns(TrainingWarning, match="1 of 10 masks in '.*masks' have no image and are ignored, '3.png'"):
        assert len(read_masks(folder, (6, 4), 1, 255).x) == 9


def test_mask_that_changed_since_it_was_read_is_named(folder: Path) -> None:
    dataset = load(folder, in_memory=False, ignore_index=255)
    write_mask(folder / "masks" / "3.png", np.full((6, 4), 9, np.uint8), "L")
    with pytest.raises(DataError, match="Mask '.*masks/3.png' has changed: it holds a value that it did not before"):
        dataset.y[EVERY]


def test_masks_are_the_same_with_worker_processes(folder: Path) -> None:
    alone, beside = (read_masks(folder, (3, 2), 3, 255, workers) for workers in (0, 2))
    assert (alone.labels, alone.y) == (beside.labels, beside.y)
