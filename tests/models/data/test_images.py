from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normfold.models.data.data import DataConfig, Dataset, load_dataset
from normfold.models.data.image_files import memory
from normfold.models.data.images import read_images
from normfold.models.errors import DataError, TrainingWarning


def image(path: Path, brightness: int = 128, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (brightness, 0, 0)).save(path)


def write_classes(folder: Path, count: int = 3) -> None:
    """Write `count` images of noise for each of two classes, in different sizes."""
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (5 + number % 3, 7, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def load(folder: Path, size: tuple[int, int] = (4, 4), workers: int = 0, **options: Any) -> Dataset:
    """Load a folder as a data set."""
    return load_dataset(DataConfig(source=f"images:{folder}", image_size=size, **options), workers)


def test_image_folders_are_the_classes(tmp_path: Path) -> None:
    image(tmp_path / "dogs" / "1.png", 255)
    image(tmp_path / "dogs" / "2.jpg")
    image(tmp_path / "cats" / "1.JPEG")
    (tmp_path / ".hidden").mkdir()
    raw = read_images(tmp_path, (2, 3), 3)
    assert raw.labels == ("cats", "dogs")
    assert raw.y.tolist() == [0, 1, 1]
    assert raw.x.shape == (3, 3, 2, 3)
    red, green, _ = raw.x[np.asarray([1])][0]
    assert red.max() == pytest.approx(255)
    assert green.max() == 0
    assert read_images(tmp_path, (2, 3), 1).x.shape == (3, 1, 2, 3)


def test_files_with_other_suffixes_are_ignored_with_a_warning(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        image(tmp_path / name / "1.png")
    (tmp_path / "cats" / "notes.txt").write_text("")
    with pytest.warns(TrainingWarning, match="1 of 2 files in '.*cats' are ignored"):
        assert len(read_images(tmp_path, (2, 3), 3).x) == 2


def test_unusable_image_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give `image_size`"):
        read_images(tmp_path, None, 3)
    for size in ((99999999, 99999999), (0, 3), (2, 4097)):
        with pytest.raises(DataError, match="1 to 4096 pixels a side, not to"):
            read_images(tmp_path, size, 3)
    with pytest.raises(DataError, match="There is no folder '.*absent'"):
        read_images(tmp_path / "absent", (2, 3), 3)
    with pytest.raises(DataError, match="found none"):
        read_images(tmp_path, (2, 3), 3)
    image(tmp_path / "cats" / "1.png")
    with pytest.raises(DataError, match="found only 'cats'"):
        read_images(tmp_path, (2, 3), 3)
    (tmp_path / "dogs").mkdir()
    with pytest.raises(DataError, match="'.*dogs' holds no PNG or JPEG"):
        read_images(tmp_path, (2, 3), 3)
    whole = (tmp_path / "cats" / "1.png").read_bytes()
    for number in range(1, 4):
        image(tmp_path / "dogs" / f"{number}.png")
        image(tmp_path / "cats" / f"{number}.png")
    (tmp_path / "dogs" / "half.png").write_bytes(whole[: len(whole) // 2])
    for in_memory in (True, False):
        with pytest.raises(DataError, match="'.*half.png' cannot be used: The image is"):
            load(tmp_path, in_memory=in_memory)


def test_images_over_the_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path)

    empty = np.empty

    def little_memory(shape: tuple[int, ...], dtype: Any = float) -> np.ndarray:
        if isinstance(shape, tuple) and len(shape) == 4:
            raise MemoryError
        return empty(shape, dtype)

    monkeypatch.setattr("numpy.empty", little_memory)
    with pytest.raises(
        DataError, match="6 images of 4096x2048 take 1 GiB, more than .* smaller `image_size`, or leave"
    ):
        load(tmp_path, (4096, 2048), in_memory=True)


def test_class_folder_with_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "cats" / "1.png")
    image(tmp_path / "dogs\udcff" / "1.png")
    with pytest.raises(DataError, match="is not UTF-8; rename it"):
        read_images(tmp_path, (2, 3), 3)


def test_images_from_files_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path, 20)
    held = load(tmp_path, in_memory=True)
    monkeypatch.setattr(memory, "MAX_CHUNK_BYTES", 3 * held.x[np.arange(1)].nbytes)  # chunks of three images
    from_files = load(tmp_path, in_memory=False)
    assert isinstance(held.x, np.ndarray)
    assert not isinstance(from_files.x, np.ndarray)
    rows = held.splits.train
    assert rows.tolist() == from_files.splits.train.tolist()
    assert from_files.preprocessing.mean == pytest.approx(held.preprocessing.mean, rel=1e-12)
    assert from_files.preprocessing.std == pytest.approx(held.preprocessing.std, rel=1e-12)
    reference = held.x[rows].astype(np.float64) / 255
    assert from_files.preprocessing.std == pytest.approx(reference.std((0, 2, 3)), rel=1e-12)
    assert from_files.x[rows].tobytes() == held.x[rows].tobytes()


def test_images_are_held_in_memory_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path)
    bytes_held = 6 * 3 * 4 * 4 * 4 + 6 * 8  # images as float32, and classes
    for limit, held in ((bytes_held, True), (bytes_held - 1, False)):
        monkeypatch.setattr(memory, "MAX_HELD_BYTES", limit)
        assert isinstance(load(tmp_path).x, np.ndarray) is held


def test_image_channel_that_is_constant_gives_a_warning_from_files_too(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        for number in range(3):
            image(tmp_path / name / f"{number}.png", 40 * number)
    with (
        pytest.warns(TrainingWarning, match="Channel 1 is constant in the training split"),
        pytest.warns(TrainingWarning, match="Channel 2"),
    ):
        dataset = load(tmp_path, in_memory=False)
    assert dataset.preprocessing.std[1:] == (1.0, 1.0)
