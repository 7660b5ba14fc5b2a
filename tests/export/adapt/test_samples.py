"""Samples of people and services: pictures, tables, arrays; and every fault of them named in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from normfold.contract.preprocess import ImagePreprocessing, RowPreprocessing, SequencePreprocessing
from normfold.export.adapt.read_samples import read_samples
from normfold.export.adapt.samples import SampleFormat
from normfold.export.errors import ModelInputError, SampleError
from normfold.export.graph.pixels import Pixels
from normfold.export.verify.runner import ValueInfo

GREY = ImagePreprocessing(channels=1, height=4, width=4, value_max=16, mean=(0.25,), std=(0.5,))
COLOUR = ImagePreprocessing(channels=3, height=4, width=4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
ROWS = RowPreprocessing(columns=("age", "income"), mean=(40.0, 1e9), std=(10.0, 5.0))
SEQUENCES = SequencePreprocessing(channels=("left", "right"), length=3, mean=(1.0, 2.0), std=(0.5, 2.0))
RNG = np.random.default_rng(0)


def expected(
    preprocessing: Any = None, shape: Any = ("n", 1, 4, 4), name: str = "input", **pixels: bool
) -> SampleFormat:
    return SampleFormat([ValueInfo(name, ir.DataType.FLOAT, shape)], preprocessing, pixels.get("takes_pixels", False))


PICTURES = expected(GREY)
TABLE = expected(ROWS, ("n", 2))
PLAIN = expected()


def archive(tmp_path: Path, **arrays: np.ndarray) -> Path:
    np.savez(tmp_path / "s.npz", allow_pickle=False, **arrays)
    return tmp_path / "s.npz"


def test_a_folder_of_pictures_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    pictures = RNG.integers(0, 256, (3, 4, 4), np.uint8)
    for name, picture in zip(("b.png", "a.PNG", "c.png"), pictures, strict=True):
        Image.fromarray(picture).save(tmp_path / name, "PNG")
    (tmp_path / "notes.txt").write_text("no picture")

    found = read_samples(tmp_path, PICTURES)

    assert found.count == 3
    wanted = GREY.standardise(pictures[[1, 0, 2]][:, None] * (16 / 255))
    np.testing.assert_allclose(found.read(0, 3)["input"], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.read(1, 2)["input"], found.read(0, 3)["input"][1:2])


@pytest.mark.parametrize("shape", [(5, 1, 4, 4), (5, 4, 4)])
def test_raw_pictures_are_standardised_as_in_training(shape: tuple[int, ...], tmp_path: Path) -> None:
    x = RNG.uniform(0, 16, shape)

    found = read_samples(archive(tmp_path, x=x, y=np.arange(5), value_max=np.array(16.0)), PICTURES)

    assert (found.count, found.warnings) == (5, ())
    np.testing.assert_array_equal(found.read(0, 5)["input"], GREY.standardise(x.reshape(5, 1, 4, 4)))


def test_raw_pictures_beyond_the_range_are_taken_with_a_warning(tmp_path: Path) -> None:
    found = read_samples(archive(tmp_path, x=np.full((5, 1, 4, 4), 200.0)), PICTURES)

    (warning,) = found.warnings
    assert "reaches from 200 to 200, beyond the 0 to 16 of the card; are these its units?" in warning


def test_raw_rows_and_a_table_are_the_same(tmp_path: Path) -> None:
    x = np.array([[41.0, 1e9 + 1], [42.0, 1e9 + 2]])
    (tmp_path / "s.csv").write_text("label,income,age\nyes,1000000001,41\n\nno,1000000002,42\n")

    arrays = read_samples(archive(tmp_path, x=x, columns=np.array(["age", "income"])), TABLE)
    table = read_samples(tmp_path / "s.csv", TABLE)

    assert arrays.count == table.count == 2
    for found in (arrays, table):
        np.testing.assert_array_equal(found.read(0, 2)["input"], ROWS.standardise(x))


def test_raw_sequences_are_standardised(tmp_path: Path) -> None:
    x, given = RNG.normal(size=(5, 2, 3)), expected(SEQUENCES, ("n", 2, 3))

    found = read_samples(archive(tmp_path, x=x, channels=np.array(["left", "right"])), given)

    np.testing.assert_array_equal(found.read(0, 5)["input"], SEQUENCES.standardise(x))
    with pytest.raises(SampleError, match=r"has the channels \['right', 'left'\], the card \['left', 'right'\]"):
        read_samples(archive(tmp_path, x=x, channels=np.array(["right", "left"])), given)


def test_tensors_are_taken_as_they_are(tmp_path: Path) -> None:
    tensors = RNG.normal(size=(5, 1, 4, 4)).astype(np.float32)

    for given in (PICTURES, PLAIN):
        found = read_samples(archive(tmp_path, input=tensors, y=np.arange(5)), given)
        np.testing.assert_array_equal(found.read(2, 4)["input"], tensors[2:4])
    raw = read_samples(archive(tmp_path, x=tensors), PLAIN)  # without preprocessing, raw inputs are tensors
    np.testing.assert_array_equal(raw.read(0, 5)["input"], tensors)


def test_samples_of_several_inputs_come_together(tmp_path: Path) -> None:
    infos = [ValueInfo("a", ir.DataType.FLOAT, ("n", 2)), ValueInfo("b", ir.DataType.INT64, ("n",))]
    arrays: dict[str, np.ndarray] = {"a": RNG.normal(size=(5, 2)).astype(np.float32), "b": np.arange(5)}

    found = read_samples(archive(tmp_path, **arrays), SampleFormat(infos, None, False))

    assert found.count == 5
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.read(1, 3)[name], array[1:3])
    arrays["b"] = np.arange(4)
    with pytest.raises(SampleError, match="different numbers of samples: {'a': 5, 'b': 4}"):
        read_samples(archive(tmp_path, **arrays), SampleFormat(infos, None, False))


@pytest.mark.parametrize("preprocessing", [COLOUR, None])
def test_tensors_are_pixels_where_the_bundle_takes_pixels(preprocessing: Any, tmp_path: Path) -> None:
    """The unfolded network takes them standardised."""
    pixels = RNG.integers(0, 256, (5, 3, 4, 4), np.uint8)
    given = expected(preprocessing, ("n", 3, 4, 4), takes_pixels=True)

    found = read_samples(archive(tmp_path, input=pixels), given).read(0, 5)["input"]

    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, Pixels.of(preprocessing).standardised(pixels, ir.DataType.FLOAT))
    with pytest.raises(SampleError, match="is float32, the network takes uint8"):
        read_samples(archive(tmp_path, input=found), given)


def test_ambiguous_array_needs_an_option(tmp_path: Path) -> None:
    x = RNG.uniform(0, 16, (5, 1, 4, 4)).astype(np.float32)
    path, both = archive(tmp_path, x=x), expected(GREY, name="x")

    with pytest.raises(SampleError, match="may hold raw inputs or the network's tensors.*give `as_tensors`"):
        read_samples(path, both)

    np.testing.assert_array_equal(read_samples(path, both, True).read(0, 5)["x"], x)
    np.testing.assert_array_equal(read_samples(path, both, False).read(0, 5)["x"], GREY.standardise(x))
    np.testing.assert_array_equal(read_samples(path, expected(name="x")).read(0, 5)["x"], x)


def infinite(*shape: int, at: Any) -> np.ndarray:
    array = np.zeros(shape, np.float32)
    array[at] = np.nan
    return array


@pytest.mark.parametrize(
    ("arrays", "given", "says"),
    [
        ({"z": np.zeros(3)}, PICTURES, r"holds the arrays \['z'\]; wanted are tensors \['input'\], or raw inputs 'x'"),
        ({"y": np.zeros(3)}, PLAIN, r"wanted are tensors \['input'\]\."),
        ({"x": np.zeros((5, 3, 3))}, PICTURES, r"shape \[5, 3, 3\]; one sample is \[1, 4, 4\]"),
        ({"x": np.zeros(())}, PICTURES, r"shape \[\]; one sample"),
        ({"x": np.zeros((5, 3))}, TABLE, r"shape \[5, 3\]; one sample is \[2\]"),
        (
            {"x": np.zeros((5, 2)), "columns": np.array(["income", "age"])},
            TABLE,
            r"\['income', 'age'\], the card \['age",
        ),
        ({"x": np.array(["a", "b"])}, PICTURES, "is <U1; it must hold real numbers"),
        ({"x": infinite(5, 4, 4, at=(3, 1, 1))}, PICTURES, "Sample 3 of the array 'x' of .*not a finite number"),
        ({"x": np.array([[0, 0], [0, 1e39]])}, TABLE, "Sample 1 of the array 'x'"),
        ({"input": infinite(5, 1, 4, 4, at=2)}, PLAIN, "Sample 2 of the array 'input'"),
        ({"input": np.zeros((5, 1, 4, 4))}, PLAIN, "'input' of .* is float64, the network takes float32"),
        ({"input": np.zeros((5, 1, 4, 5), np.float32)}, PLAIN, r"shape \[5, 1, 4, 5\], the input \['n', 1, 4, 4\]"),
        ({"input": np.zeros((5, 1, 4), np.float32)}, PLAIN, r"shape \[5, 1, 4\], the input"),
        ({"input": np.zeros((), np.float32)}, PLAIN, r"shape \[\], the input"),
    ],
)
def test_arrays_that_do_not_fit_are_named(arrays: Any, given: SampleFormat, says: str, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=says):
        read_samples(archive(tmp_path, **arrays), given)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"must have one column 'age'; its columns are \[\]"),
        ("age,label\n1,2\n", "must have one column 'income'"),
        ("age,age,income\n1,1,2\n", "must have one column 'age'"),
        ("age,income\n1,2\n1\n", "Row 3 of .* has 1 values, the header 2"),
        ("age,income\n1,x\n", "Row 2 of .* cannot be used: The text 'x' is not a number"),
        ("age,income\n1,\n", "Row 2 of .* cannot be used"),
        ("age,income\n1,nan\n", "Row 2 of .* Column 'income' has nan, which is not a finite"),
        ("age,income\n1,1e39\n", "Row 2 of .* Column 'income' has 1e.39, which is not a finite"),
    ],
)
def test_rows_that_cannot_be_read_are_named(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(SampleError, match=says):
        read_samples(tmp_path / "s.csv", TABLE)


def test_a_header_alone_is_no_sample(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("age,income\n")
    assert read_samples(tmp_path / "s.csv", TABLE).count == 0


def test_a_damaged_picture_is_named_when_its_turn_comes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    found = read_samples(tmp_path, PICTURES)
    with pytest.raises(SampleError, match="a.png' cannot be used: The image is neither a PNG nor a JPEG file"):
        found.read(0, 1)


def test_samples_that_do_not_fit_the_card_are_named(tmp_path: Path) -> None:
    (tmp_path / "s.txt").touch()
    (tmp_path / "s.csv").write_bytes(b"\xff\xfe\n")
    (tmp_path / "s.npz").write_bytes(b"no archive")
    for path, given, says in (
        (tmp_path, TABLE, "is a folder, and the network has no card that says how to read images"),
        (tmp_path, PICTURES, "holds no PNG or JPEG file"),
        (tmp_path / "s.txt", PICTURES, "is not a folder of images, nor an .npz, .csv or .parquet file"),
        (tmp_path / "s.csv", PICTURES, "is a table, and the network has no card that says how to read rows"),
        (tmp_path / "s.csv", TABLE, "is not a comma-separated UTF-8 table"),
        (tmp_path / "none.csv", TABLE, "cannot be read: No such file"),
    ):
        with pytest.raises(SampleError, match=says):
            read_samples(path, given)
    with pytest.raises(ModelInputError, match="is not an .npz file of plain arrays"):
        read_samples(tmp_path / "s.npz", PICTURES)
    with pytest.raises(ModelInputError, match="cannot be read: No such file"):
        read_samples(tmp_path / "none.npz", PICTURES)
