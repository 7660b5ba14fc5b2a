"""Numbers of classes, and the pixels of masks that have none."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normfold.contract.source_card import IGNORED
from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.data.files import read_npz
from normfold.models.data.targets import TargetOptions
from normfold.models.errors import DataError, TrainingWarning


def save(path: Path, masks: np.ndarray, **arrays: Any) -> Path:
    np.savez(path / "masks.npz", x=np.ones(masks.shape), y=masks, **arrays)
    return path / "masks.npz"


def masks_of(*values: int, dtype: Any = np.uint8) -> np.ndarray:
    """Six masks of 4 × 5 pixels, each of which holds every value."""
    return np.resize(np.array(values, dtype), (6, 4, 5))


@pytest.mark.parametrize(
    ("masks", "value"),
    [
        (masks_of(0, 7, 255), 255),
        (masks_of(0, 7, -1, dtype=np.int8), -1),
        (masks_of(0, 3, 7), 3),
        (masks_of(0, 7, 65535, dtype=np.uint16), 65535),
    ],
)
def test_ignored_value_of_masks_is_no_class(tmp_path: Path, masks: np.ndarray, value: int) -> None:
    raw = read_npz(save(tmp_path, masks), TargetOptions(ignore_index=value))

    assert (raw.labels, raw.y.dtype, raw.y.shape) == (("0", "7"), np.int64, masks.shape)
    assert np.array_equal(raw.y, np.where(masks == value, IGNORED, masks == 7))


def test_ignored_value_is_left_out_of_the_range_that_labels_give(tmp_path: Path) -> None:
    masks = masks_of(0, 1, 255)
    path = save(tmp_path, masks, labels=["road", "sky", "car"])

    raw = read_npz(path, TargetOptions(ignore_index=255))

    assert raw.labels == ("road", "sky", "car")
    assert np.array_equal(raw.y, np.where(masks == 255, IGNORED, masks.astype(np.int64)))
    with pytest.raises(DataError, match="must hold integers from 0 to 2; `ignore_index` leaves out the pixels of one"):
        read_npz(path)
    with pytest.raises(DataError, match="must hold integers from 0 to 2.$"):
        read_npz(save(tmp_path, masks_of(0, 9, 255), labels=["road", "sky", "car"]), TargetOptions(ignore_index=255))


def test_mask_that_holds_only_the_ignored_value_is_named(tmp_path: Path) -> None:
    masks = masks_of(0, 1, 255)
    masks[3] = 255

    for more in ({}, {"labels": ["a", "b"]}):
        with pytest.raises(DataError, match=r"Mask 3 \(counted from 0\) of .* holds only 255, the `ignore_index`"):
            read_npz(save(tmp_path, masks, **more), TargetOptions(ignore_index=255))


@pytest.mark.parametrize(
    ("masks", "value"),
    [
        (masks_of(0, 1, 255), 255),
        (masks_of(0, 3, 20, 255, dtype=np.int64), 255),
        (masks_of(0, 1, 65535, dtype=np.uint16), 65535),
        (masks_of(0, 1, -1, dtype=np.int64), -1),
        (masks_of(0, 1, -100, dtype=np.int64), -100),
    ],
)
def test_value_that_usually_marks_pixels_without_a_class_is_warned_of(
    tmp_path: Path, masks: np.ndarray, value: int
) -> None:
    with pytest.warns(
        TrainingWarning, match=rf"hold the value {value}, .* leave them out with `ignore_index` {value}\."
    ):
        raw = read_npz(save(tmp_path, masks))

    assert str(value) in raw.labels


@pytest.mark.parametrize(
    ("masks", "value"),
    [
        (masks_of(0, 255), None),
        (masks_of(-1, 1, dtype=np.int64), None),
        (masks_of(*range(256)), None),
        (masks_of(0, 1, 2), None),
        (masks_of(0, 1, 256, dtype=np.int64), None),
        (masks_of(0, 1, 2, 255), 255),
    ],
)
def test_masks_of_classes_only_give_no_warning(tmp_path: Path, masks: np.ndarray, value: int | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_npz(save(tmp_path, masks), TargetOptions(ignore_index=value))


def test_ignored_value_that_no_pixel_holds_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(TrainingWarning, match=r"No pixel of the masks of .* holds 254, the `ignore_index`"):
        raw = read_npz(save(tmp_path, masks_of(0, 1)), TargetOptions(ignore_index=254))

    assert raw.labels == ("0", "1")


def test_masks_with_one_class_beside_the_ignored_value_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is only one class, '0'"):
        load_dataset(DataConfig(source=f"npz:{save(tmp_path, masks_of(0, 255))}", ignore_index=255))


def test_classes_of_samples_do_not_depend_on_the_ignored_value(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.ones((6, 2)), y=np.arange(6) % 2 * 255)

    assert read_npz(tmp_path / "rows.npz", TargetOptions(ignore_index=255)).labels == ("0", "255")
