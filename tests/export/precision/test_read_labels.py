"""Labels of samples: whole numbers of any dtype, or names of the card; all others are refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from normfold.export.errors import SampleError
from normfold.export.precision.read_labels import read_labels

NAMES = ("cat", "dog", "7")


@pytest.mark.parametrize(
    "labels",
    [
        np.array([1, 0, 2]),
        np.array([1, 0, 2], np.uint8),
        np.array([1.0, 0.0, 2.0]),
        np.array([1, 0, 2], np.float16),
        np.array(["dog", "cat", "7"]),
        np.array([b"dog", b"cat", b"7"]),
    ],
)
def test_labels_are_whole_numbers_or_names_of_the_card(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "s.npz", x=np.zeros(3), y=labels)

    found = read_labels(tmp_path / "s.npz", 3, NAMES)

    assert found is not None
    assert found.dtype.kind in "iu"
    assert found.tolist() == [1, 0, 2]


def test_labels_are_true_and_false_or_of_pixels(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", y=np.array([True, False]))
    np.savez(tmp_path / "masks.npz", y=np.array([[["dog", "cat"]], [["7", "7"]]]))

    assert read_labels(tmp_path / "s.npz", 2).tolist() == [1, 0]  # type: ignore[union-attr]
    assert read_labels(tmp_path / "masks.npz", 2, NAMES).tolist() == [[[1, 0]], [[2, 2]]]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0.0, 1.5], NAMES, "Sample 1 of '.*s.npz', counted from 0, has the label 1.5; labels 'y' must be whole"),
        ([0.0, np.nan], NAMES, "Sample 1 .* has the label nan"),
        ([np.inf, 0.0], NAMES, "Sample 0 .* has the label inf"),
        (["dog", "bird"], NAMES, "Sample 1 .* has the label 'bird'; the card's labels are 'cat', 'dog', '7'."),
        ([[["dog", "dog"]], [["dog", "Dog"]]], NAMES, "Sample 1 .* has the label 'Dog'"),
        (["dog", "cat"], None, "are text, and no card names the classes"),
        ([1j, 0j], NAMES, "are complex128; they must be whole numbers, or names of classes"),
        ([0], NAMES, r"holds 2 samples and labels 'y' of shape \[1\]"),
        (1, NAMES, r"holds 2 samples and labels 'y' of shape \[\]"),
    ],
)
def test_labels_of_another_kind_are_refused(
    tmp_path: Path, labels: object, names: tuple[str, ...] | None, message: str
) -> None:
    np.savez(tmp_path / "s.npz", y=np.array(labels))

    with pytest.raises(SampleError, match=message):
        read_labels(tmp_path / "s.npz", 2, names)


def test_labels_are_none_where_a_file_has_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.zeros(3))

    assert read_labels(tmp_path / "s.npz", 3, NAMES) is None
    assert read_labels(tmp_path, 3, NAMES) is None
