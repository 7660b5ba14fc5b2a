from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normfold.models.data.files import read_npz
from normfold.models.errors import DataError

Y = np.arange(6) % 2


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


@pytest.mark.parametrize(
    ("shape", "expected"), [((6, 4, 5), (6, 1, 4, 5)), ((6, 3, 4, 5), (6, 3, 4, 5)), ((6, 7), (6, 7))]
)
def test_npz_holds_images_or_rows(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    raw = read_npz(save(tmp_path, x=np.ones(shape), y=Y))
    assert raw.x.shape == expected
    assert raw.columns == (None if len(expected) == 4 else tuple(f"x{index}" for index in range(7)))
    assert raw.labels == ("0", "1")


def test_npz_labels_may_be_strings_sparse_or_named(tmp_path: Path) -> None:
    strings = read_npz(save(tmp_path, x=np.ones((6, 2)), y=np.array(["b", "a"] * 3)))
    assert strings.labels == ("a", "b")
    assert strings.y.tolist() == [1, 0] * 3
    assert read_npz(save(tmp_path, x=np.ones((6, 2)), y=Y * 7)).y.tolist() == Y.tolist()
    assert read_npz(save(tmp_path, x=np.ones((6, 2)), y=Y, labels=["no", "yes"])).labels == ("no", "yes")


def test_npz_with_channels_holds_sequences(tmp_path: Path) -> None:
    raw = read_npz(save(tmp_path, x=np.ones((6, 2, 5)), y=Y, channels=["a", "b"]))
    assert (raw.x.shape, raw.channels, raw.columns) == ((6, 2, 5), ("a", "b"), None)
    assert read_npz(save(tmp_path, x=np.ones((6, 2, 5)), y=Y)).channels is None


@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 1, 4, 5), (6, 3, 4, 5)])
def test_npz_may_hold_a_mask_for_each_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    masks = np.arange(120).reshape(6, 4, 5) % 3
    raw = read_npz(save(tmp_path, x=np.ones(shape), y=masks * 7))
    assert (raw.labels, raw.y.dtype) == (("0", "7", "14"), np.int64)
    assert np.array_equal(raw.y, masks)
    named = read_npz(save(tmp_path, x=np.ones(shape), y=masks.astype(np.uint8), labels=["a", "b", "c", "d"]))
    assert named.labels == ("a", "b", "c", "d")
    assert np.array_equal(named.y, masks)


@pytest.mark.parametrize(
    ("x", "more", "expected"),
    [
        (np.ones((6, 2, 2), np.uint8), {}, 255),
        (np.ones((6, 2, 2), np.uint16), {}, 65535),
        (np.full((6, 2, 2), 16.0), {}, 16),
        (np.zeros((6, 2, 2)), {}, 1),
        (np.ones((6, 2, 2)), {"value_max": 4.0}, 4),
    ],
)
def test_full_intensity_is_given_or_derived_from_the_dtype(
    tmp_path: Path, x: np.ndarray, more: dict[str, float], expected: float
) -> None:
    assert read_npz(save(tmp_path, x=x, y=Y, **more)).value_max == expected


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((6, 2))}, "has no array 'y'; it holds: x"),
        ({"x": np.ones((6, 2)), "y": Y[:3]}, "N rows as 'x' has.*x is \\[6, 2\\], y is \\[3\\]"),
        ({"x": np.ones((6, 2, 4, 5)), "y": Y}, "1 or 3 channels"),
        ({"x": np.full((6, 2), "a"), "y": Y}, "must hold real numbers"),
        ({"x": np.array([[1.0, 2]] * 5 + [[1, np.nan]]), "y": Y}, "holds nan in row 5, column 1"),
        ({"x": np.array([[1.0, 2]] * 5 + [[-1e300, 2]]), "y": Y}, r"holds -1e\+300 in row 5, column 0.* float32"),
        ({"x": np.full((6, 2), np.inf, np.float16), "y": Y}, "holds inf in row 0, column 0"),
        ({"x": np.full((6, 2, 2), np.inf), "y": Y}, r"holds inf in row 0 \(counted from 0\)"),
        ({"x": 5.0, "y": Y}, r"x is \[\], y is \[6\]"),
        ({"x": np.ones((6, 2)), "y": 1}, r"x is \[6, 2\], y is \[\]"),
        ({"x": np.ones((6, 0)), "y": Y}, r"x is \[6, 0\]"),
        ({"x": np.ones((0, 2)), "y": Y[:0]}, "at least one"),
        ({"x": np.ones(6), "y": Y}, r"or rows \(N, columns\); it is \[6\]"),
        ({"x": np.ones((6, 2), np.complex64), "y": Y}, "must hold real numbers"),
        ({"x": np.ones((6, 2)), "y": Y.astype(complex)}, "must be integers or strings"),
        ({"x": np.ones((6, 2)), "y": Y, "labels": "no"}, "'labels' .* must be a list of names"),
        ({"x": np.ones((6, 2)), "y": Y, "labels": ["a", "a"]}, "'labels' .* holds 'a' twice"),
        ({"x": np.ones((6, 2)), "y": Y, "columns": 3}, "'columns' .* must be a list of names"),
        ({"x": np.ones((6, 2)), "y": Y, "columns": ["a", "a"]}, "'columns' .* holds 'a' twice"),
        ({"x": np.ones((6, 2, 2)), "y": Y, "value_max": [1, 2]}, "'value_max' .* one positive float32 number"),
        ({"x": np.ones((6, 2, 2)), "y": Y, "value_max": "x"}, "'value_max' .* one positive float32 number"),
        ({"x": np.ones((6, 2, 2)), "y": Y, "value_max": 1e-300}, "'value_max' .* one positive float32 number"),
        ({"x": np.ones((6, 2)), "y": Y + np.inf}, "has inf as 'y'"),
        ({"x": np.ones((6, 2)), "y": Y, "labels": ["one"]}, "integers from 0 to 0"),
        ({"x": np.ones((6, 2)), "y": Y, "columns": ["one"]}, "names 1 columns, but 'x' has 2"),
        ({"x": np.ones((6, 4, 5)), "y": np.ones((6, 4, 4), int)}, r"masks \[6, 4, 4\].* x is \[6, 4, 5\]"),
        (
            {"x": np.ones((6, 20)), "y": np.ones((6, 4, 5), int)},
            r"need images of their height and width; x is \[6, 20",
        ),
        ({"x": np.ones((6, 4, 5)), "y": np.ones((6, 4, 5), int), "channels": list("abcd")}, "which need images"),
        ({"x": np.ones((6, 4, 5)), "y": np.ones((5, 4, 5), int)}, r"N rows as 'x' has.*y is \[5, 4, 5\]"),
        ({"x": np.ones((6, 4, 5)), "y": np.ones((6, 4, 5))}, "must be integers or strings"),
        ({"x": np.ones((6, 4, 5)), "y": np.full((6, 4, 5), 2), "labels": ["a", "b"]}, "integers from 0 to 1"),
        ({"x": np.ones((6, 4, 5)), "y": np.ones((6, 4, 5, 1), int)}, r"y is \[6, 4, 5, 1\]"),
        (
            {"x": np.ones((6, 2, 5)), "y": Y, "channels": ["a"]},
            r"names 1 channels, so .* \(N, 1, length\); it is \[6, 2",
        ),
        ({"x": np.ones((6, 2)), "y": Y, "channels": ["a", "b"]}, r"so 'x' must be sequences .* it is \[6, 2\]"),
        ({"x": np.array([{}] * 6), "y": Y}, "not a NumPy archive of plain arrays: it holds Python objects\\.$"),
    ],
)
def test_npz_with_wrong_arrays_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_npz(save(tmp_path, **arrays))


def test_npz_with_other_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_npz(path)
    whole = save(tmp_path, x=np.ones((6, 2)), y=Y).read_bytes()
    for damaged in (b"", b"hello", pickle.dumps([1]), whole[:100], whole[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="data.npz"):
            read_npz(path)
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="one bare array"):
        read_npz(path)


def test_npz_with_members_other_than_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"raw")
        archive.writestr("y", b"raw")
    with pytest.raises(DataError, match="has no array 'x'; it holds: nothing"):
        read_npz(path)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (900000, 900000, 900), }\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DataError, match="data.npz' (holds arrays larger|is no NumPy archive)"):
        read_npz(path)


def test_images_with_channels_last_are_read_with_their_layout(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3)).astype(np.uint8)
    path = tmp_path / "x.npz"
    np.savez(path, x=x, y=np.arange(6) % 2)
    with pytest.raises(DataError, match="Its channels seem to come last: give `layout` nhwc.$"):
        read_npz(path)
    assert (read_npz(path, layout="nhwc").x[:] == x.transpose(0, 3, 1, 2)).all()
    np.savez(path, x=x, y=np.arange(120).reshape(6, 4, 5) % 2)
    with pytest.raises(DataError, match="Its channels seem to come last: give `layout` nhwc.$"):
        read_npz(path)
    assert read_npz(path, layout="nhwc").x.shape == (6, 3, 4, 5)
    np.savez(path, x=x[..., 0], y=np.arange(6) % 2)
    with pytest.raises(DataError, match="With `layout` nhwc, array 'x' of '.*' must be images"):
        read_npz(path, layout="nhwc")
