from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normfold.models.data.data import DataConfig, Dataset, load_dataset
from normfold.models.errors import DataError

RNG = np.random.default_rng(0)


def save(path: Path, names: str, **arrays: np.ndarray) -> str:
    """Write twelve rows with these class names by turns; the first column counts the rows."""
    y = np.array([names[row % len(names)] for row in range(12)])
    x = np.stack([np.arange(12), RNG.normal(size=12)], axis=1)
    np.savez(path, **({"x": x, "y": y} | arrays))
    return f"npz:{path}"


def load(source: str, **options: str) -> Dataset:
    return load_dataset(DataConfig(source=source, **options))


def test_validation_and_test_come_from_files_of_their_own(tmp_path: Path) -> None:
    sources = [save(tmp_path / f"{name}.npz", names) for name, names in zip("abc", ("xyz", "zx", "y"), strict=True)]
    dataset = load(sources[0], validation_data=sources[1], test_data=sources[2])
    rows = [dataset.splits.train, dataset.splits.validation, dataset.splits.test]
    assert [part.tolist() for part in rows] == [list(range(start, start + 12)) for start in (0, 12, 24)]
    assert dataset.labels == ("x", "y", "z")
    assert dataset.y[12:].tolist() == [2, 0] * 6 + [1] * 12
    with np.load(tmp_path / "a.npz") as archive:
        assert dataset.preprocessing.mean == pytest.approx(archive["x"].mean(0))
    only_test = load(sources[0], test_data=sources[2])
    assert [len(part) for part in (only_test.splits.train, only_test.splits.validation)] == [9, 3]
    assert only_test.splits.test.tolist() == list(range(12, 24))


@pytest.mark.parametrize(
    ("names", "arrays", "message"),
    [
        ("xw", {}, "'npz:.*b.npz' holds the class 'w', which the training data do not have; their classes are: x, y"),
        ("x", {"x": np.zeros((12, 3))}, r"'npz:.*b.npz' has samples of shape \[3\]; the training data have \[2\]"),
        ("x", {"columns": np.array(["p", "q"])}, r"'npz:.*b.npz' has columns \['p', 'q'\]; the training data have"),
    ],
)
def test_own_file_that_does_not_fit_is_named(
    tmp_path: Path, names: str, arrays: dict[str, np.ndarray], message: str
) -> None:
    source, other = save(tmp_path / "a.npz", "xy"), save(tmp_path / "b.npz", names, **arrays)
    with pytest.raises(DataError, match=message):
        load(source, validation_data=other)


def test_group_in_two_files_is_refused(tmp_path: Path) -> None:
    groups = np.array(list("aabbccddeeff"))
    source = save(tmp_path / "a.npz", "xy", groups=groups)
    with pytest.raises(DataError, match="Group 'f' is in 'npz:.*b.npz' and in the training data.$"):
        load(source, test_data=save(tmp_path / "b.npz", "xy", groups=np.array(["f"] * 12)))


def street(folder: Path, values: list[int]) -> str:
    """Write a folder of six images whose masks hold these values by turns."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(6):
        pixels = np.full((4, 4), values[number % len(values)], np.uint8)
        pixels[0] = values[0]
        Image.fromarray(pixels).save(folder / "masks" / f"{number}.png")
        Image.fromarray(10 * pixels + number).save(folder / "images" / f"{number}.png")
    return f"masks:{folder}"


@pytest.mark.parametrize("in_memory", [True, False])
def test_folders_of_their_own_join_images_and_masks(tmp_path: Path, in_memory: bool) -> None:
    config = DataConfig(
        source=street(tmp_path / "a", [2, 5, 7]),
        test_data=street(tmp_path / "b", [7, 2]),
        image_size=(4, 4),
        channels=1,
        in_memory=in_memory,
    )
    dataset = load_dataset(config)
    assert dataset.labels == ("2", "5", "7")
    assert dataset.y[dataset.splits.test][:, 3, 0].tolist() == [2, 0] * 3
    assert dataset.x[dataset.splits.test][:, 0, 3, 0].tolist() == [70, 21, 72, 23, 74, 25]
    other = config.model_copy(update={"test_data": street(tmp_path / "c", [9])})
    with pytest.raises(DataError, match="'masks:.*c' holds the class '9', which the training data do not have"):
        load_dataset(other)
