from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from normfold.models.data.images import read_images
from normfold.models.errors import DataError, TrainingWarning


def image(path: Path, brightness: int = 128, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (brightness, 0, 0)).save(path)


def test_image_folders_are_the_classes(tmp_path: Path) -> None:
    image(tmp_path / "dogs" / "1.png", 255)
    image(tmp_path / "dogs" / "2.jpg")
    image(tmp_path / "cats" / "1.JPEG")
    (tmp_path / ".hidden").mkdir()
    raw = read_images(tmp_path, (2, 3), 3)
    assert raw.labels == ("cats", "dogs")
    assert raw.y.tolist() == [0, 1, 1]
    assert raw.x.shape == (3, 3, 2, 3)
    assert raw.x[1, 0].max() == pytest.approx(255)
    assert raw.x[1, 1].max() == 0
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
    (tmp_path / "dogs" / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="'.*half.png' cannot be used: The image is"):
        read_images(tmp_path, (2, 3), 3)


def test_images_over_the_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cats", "dogs"):
        image(tmp_path / name / "1.png")

    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("numpy.empty", no_memory)
    with pytest.raises(DataError, match="2 images of 4096x2048 take 0 GiB, more than .* smaller `image_size`"):
        read_images(tmp_path, (4096, 2048), 3)


def test_class_folder_with_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "cats" / "1.png")
    image(tmp_path / "dogs\udcff" / "1.png")
    with pytest.raises(DataError, match="is not UTF-8; rename it"):
        read_images(tmp_path, (2, 3), 3)
