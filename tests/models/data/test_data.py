from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from normfold.contract.preprocess import ImagePreprocessing, RowPreprocessing, SequencePreprocessing
from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.errors import DataError, TrainingWarning


def test_digits_are_split_seventy_ten_twenty_in_every_class() -> None:
    digits = load_dataset(DataConfig())
    sizes = [len(part) for part in (digits.splits.train, digits.splits.validation, digits.splits.test)]
    assert digits.x.shape == (1797, 1, 8, 8)
    assert digits.labels == tuple("0123456789")
    assert sum(sizes) == 1797
    for part, fraction in ((digits.splits.test, 0.2), (digits.splits.validation, 0.1)):
        assert np.abs(np.bincount(digits.y[part]) - fraction * np.bincount(digits.y)).max() <= 0.5


def test_mean_and_std_are_those_of_the_training_split() -> None:
    digits = load_dataset(DataConfig())
    train = digits.x[digits.splits.train].astype(np.float64) / 16
    assert isinstance(digits.preprocessing, ImagePreprocessing)
    assert digits.preprocessing.value_max == 16
    assert digits.preprocessing.mean == pytest.approx([train.mean()], rel=1e-12)
    assert digits.preprocessing.std == pytest.approx([train.std()], rel=1e-12)
    everything = digits.x.astype(np.float64) / 16
    assert digits.preprocessing.mean != pytest.approx([everything.mean()], rel=1e-6)


def test_tensors_are_standardised_by_the_preprocessing() -> None:
    digits = load_dataset(DataConfig())
    rows = digits.splits.train
    tensors = digits.tensors(rows)
    assert np.array_equal(tensors, digits.preprocessing.standardise(digits.x[rows]))
    assert tensors.mean() == pytest.approx(0, abs=1e-4)
    assert tensors.std() == pytest.approx(1, abs=1e-4)


def test_images_have_a_mean_and_std_per_channel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, [[[50]], [[100]], [[200]]], (60, 3, 4, 5), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(60) % 2)
    dataset = load_dataset(DataConfig(source=f"npz:{tmp_path / 'x.npz'}"))
    train = x[dataset.splits.train].astype(np.float64) / 255
    assert dataset.input_shape == (3, 4, 5)
    assert dataset.preprocessing.mean == pytest.approx(train.mean((0, 2, 3)), rel=1e-12)
    assert dataset.preprocessing.std == pytest.approx(train.std((0, 2, 3)), rel=1e-12)


def test_constant_column_is_not_scaled_and_warned_about(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(30, 3))
    x[:, 1] = 0.1
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(30) % 2, columns=["a", "b", "c"])
    with pytest.warns(TrainingWarning, match="Column 'b' is constant"):
        dataset = load_dataset(DataConfig(source=f"npz:{tmp_path / 'x.npz'}"))
    assert isinstance(dataset.preprocessing, RowPreprocessing)
    assert dataset.preprocessing.std[1] == 1
    assert np.abs(dataset.tensors(dataset.splits.train)[:, 1]).max() < 1e-12


def test_sequences_have_a_mean_and_std_per_named_channel(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal([[1.0], [1e6]], [[2.0], [0.5]], (60, 2, 7))
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(60) % 2, channels=["heat", "load"])
    dataset = load_dataset(DataConfig(source=f"npz:{tmp_path / 'x.npz'}"))
    train = x[dataset.splits.train]
    assert isinstance(dataset.preprocessing, SequencePreprocessing)
    assert (dataset.input_shape, dataset.preprocessing.channels) == ((2, 7), ("heat", "load"))
    assert dataset.preprocessing.mean == pytest.approx(train.mean((0, 2)), rel=1e-12)
    assert dataset.preprocessing.std == pytest.approx(train.std((0, 2)), rel=1e-9)
    assert dataset.tensors(dataset.splits.train).mean((0, 2)) == pytest.approx([0, 0], abs=1e-5)
    x[dataset.splits.test[0], 1, 3] = 3e38
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(60) % 2, channels=["heat", "load"])
    with pytest.raises(DataError, match=rf"Sample {dataset.splits.test[0]} .* in channel 'load', too far"):
        load_dataset(DataConfig(source=f"npz:{tmp_path / 'x.npz'}"))


def test_masks_are_split_with_their_images(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 255, (30, 3, 4, 6), np.uint8)
    np.savez(tmp_path / "x.npz", x=x, y=(x[:, 0] > 99).astype(np.int32))
    dataset = load_dataset(DataConfig(source=f"npz:{tmp_path / 'x.npz'}"))
    assert (dataset.input_shape, dataset.target_shape, dataset.labels) == ((3, 4, 6), (4, 6), ("0", "1"))
    assert np.array_equal(dataset.y, dataset.x[:, 0] > 99)
    assert [len(part) for part in (dataset.splits.train, dataset.splits.validation, dataset.splits.test)] == [21, 3, 6]
    assert load_dataset(DataConfig()).target_shape == ()


@pytest.mark.parametrize("extreme", [3e38, -1e25])
def test_extreme_value_is_refused_in_any_split(tmp_path: Path, extreme: float) -> None:
    x = np.random.default_rng(0).normal(size=(30, 3))
    for row in load_splits(tmp_path, x):
        spoilt = x.copy()
        spoilt[row, 1] = extreme
        np.savez(tmp_path / "x.npz", x=spoilt, y=np.arange(30) % 2, columns=["a", "b", "c"])
        with pytest.raises(
            DataError, match=rf"Sample {row} \(counted from 0\) has {extreme:g} in column 'b'".replace("+", r"\+")
        ):
            load_dataset(DataConfig(source=f"npz:{tmp_path / 'x.npz'}"))


def load_splits(folder: Path, x: np.ndarray) -> list[int]:
    """Return a row of the validation and one of the test split."""
    np.savez(folder / "x.npz", x=x, y=np.arange(30) % 2)
    splits = load_dataset(DataConfig(source=f"npz:{folder / 'x.npz'}")).splits
    return [int(splits.validation[0]), int(splits.test[0])]


@pytest.mark.parametrize("source", ["iris", "npz:", "tsv:x", ""])
def test_unknown_data_source_is_reported_with_the_known_ones(source: str) -> None:
    with pytest.raises(DataError, match="give digits, npz:PATH, csv:PATH, parquet:PATH, images:DIR or masks:DIR"):
        load_dataset(DataConfig(source=source))


def test_fractions_must_leave_training_rows() -> None:
    with pytest.raises(ValidationError, match="leave no training rows"):
        DataConfig(validation_fraction=0.5, test_fraction=0.5)


def test_fractions_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(ValidationError, match="finite number"):
        DataConfig(test_fraction=float("nan"))


def test_data_config_survives_json() -> None:
    config = DataConfig(source="images:cats", image_size=(8, 9), channels=1)
    assert DataConfig.model_validate_json(config.model_dump_json()) == config
