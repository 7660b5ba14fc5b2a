"""Which task labels are for, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.data.files import read_npz
from normfold.models.data.targets import TargetOptions, label_columns, read_targets, read_text_targets, task_of
from normfold.models.errors import DataError, TrainingWarning

PATH = Path("data.npz")
BINARY = np.array([[0, 1], [1, 1], [0, 0]])


@pytest.mark.parametrize(
    ("y", "task"),
    [
        (np.array([0, 1, 2]), "classification"),
        (np.array(["a", "b", "c"]), "classification"),
        (np.array([0.5, 1.25, 2.0]), "regression"),
        (np.array([[0.5, 1], [2, 3], [4, 5]]), "regression"),
        (np.array([[0.5], [2], [4]]), "regression"),
        (np.array([[3, 1], [2, 3], [4, 5]]), "regression"),
        (BINARY, "multi-label"),
        (BINARY.astype(np.float32), "multi-label"),
        (BINARY.astype(bool), "multi-label"),
        (np.zeros((3, 2, 2), np.int64) + np.arange(3)[:, None, None], "segmentation"),
    ],
)
def test_task_is_guessed_from_dtype_and_shape(y: np.ndarray, task: str) -> None:
    assert task_of(read_targets(y, None, PATH)[0]) == task


def test_guess_warns_where_classes_are_probably_meant() -> None:
    with pytest.warns(TrainingWarning, match="3 different whole numbers.*give `task` classification"):
        read_targets(np.array([0.0, 1.0, 2.0]), None, PATH)
    with pytest.warns(TrainingWarning, match=r"give their numbers \(N,\)"):
        read_targets(np.eye(3), None, PATH)


def test_given_task_wins_over_the_guess() -> None:
    numbers, labels = read_targets(np.array([2.0, 7.0, 2.0]), None, PATH, TargetOptions("classification"))
    assert (numbers.tolist(), labels) == ([0, 1, 0], ("2", "7"))
    values, names = read_targets(np.array([2, 7, 2]), None, PATH, TargetOptions("regression"))
    assert (values.dtype, values.tolist(), names) == (np.float64, [[2], [7], [2]], ("y",))


@pytest.mark.parametrize(
    ("y", "task", "message"),
    [
        (np.array([0.5, 1.0]), "classification", "of dtype float64; they must be integers or strings"),
        (BINARY, "classification", "a sample has one class"),
        (BINARY, "segmentation", r"Masks are of shape \(N, H, W\)"),
        (np.array(["a", "b"]), "regression", "must be numbers"),
        (np.array([0.5, np.nan]), "regression", "Sample 1 .* has nan as 'y', which is not a finite float32"),
        (np.array([1e300, 1]), "regression", "has 1e.300 as 'y'"),
        (np.array([[0, 2], [1, 1]]), "multi-label", "Sample 0 .* has 2 as 'y1'; for multi-label it must be 0 or 1"),
    ],
)
def test_labels_that_do_not_fit_the_task_are_refused(y: np.ndarray, task: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_targets(y, None, PATH, TargetOptions(task))


@pytest.mark.parametrize(
    ("texts", "options", "task"),
    [
        ([["1"], ["2"]], TargetOptions(), "classification"),
        ([["1.0"], ["2.0"]], TargetOptions(), "classification"),
        ([["red"], ["blue"]], TargetOptions(), "classification"),
        ([["1.5"], ["2"]], TargetOptions(), "regression"),
        ([["1"], ["2"]], TargetOptions("regression"), "regression"),
        ([["1.5"], ["2"]], TargetOptions("classification"), "classification"),
        ([["0", "1"], ["1", "1"]], TargetOptions(), "multi-label"),
        ([["3", "1"], ["1", "1"]], TargetOptions(), "regression"),
    ],
)
def test_task_of_texts_is_guessed_from_their_values(texts: list[list[str]], options: TargetOptions, task: str) -> None:
    names = ("a", "b")[: len(texts[0])]
    assert task_of(read_text_targets(np.asarray(texts), names, PATH, options)[0]) == task


def test_text_in_a_column_of_numbers_is_named() -> None:
    with pytest.raises(DataError, match="Sample 1 .* has 'x' in the label column 'b'; it must be a number, since"):
        read_text_targets(np.asarray([["1", "2"], ["1", "x"]]), ("a", "b"), PATH, TargetOptions())


def test_label_columns_are_repeated_or_separated_by_commas() -> None:
    assert label_columns("a", ["a", "b"]) == ("a",)
    assert label_columns(("a, b", "c", "a"), ["a", "b", "c"]) == ("a", "b", "c")
    assert label_columns("a,b", ["a,b", "c"]) == ("a,b",)


def test_targets_of_regression_are_standardised_by_the_training_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(50, 2)) * [3, 500] + [7, -1e4]
    np.savez(tmp_path / "r.npz", x=rng.normal(size=(50, 3)), y=y, labels=["a", "b"])
    dataset = load_dataset(DataConfig(source=f"npz:{tmp_path / 'r.npz'}", unit=("m",)))
    train = dataset.splits.train
    expected = (y - y[train].mean(axis=0)) / y[train].std(axis=0)
    np.testing.assert_allclose(dataset.targets(np.arange(50)), expected, rtol=1e-5, atol=1e-6)
    assert dataset.targets(train).dtype == np.float32
    assert (dataset.labels, sorted(np.concatenate([train, dataset.splits.validation, dataset.splits.test]))) == (
        ("a", "b"),
        [*range(50)],
    )


@pytest.mark.parametrize(
    ("y", "config", "message"),
    [
        (np.full(40, 2.5), {}, "'y' has the value 2.5 in every row of the training split"),
        (np.arange(40) / 8, {"unit": ("m", "s")}, "`unit` has 2 units; .* takes one unit, or 1"),
        (np.arange(40) % 2, {"unit": ("m",)}, "takes no unit: the task is classification"),
        (np.arange(40) / 8, {"ignore_index": 255}, "`ignore_index` is for masks; .* has labels for regression"),
    ],
)
def test_options_of_another_task_are_refused(
    tmp_path: Path, y: np.ndarray, config: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "r.npz", x=np.random.default_rng(0).normal(size=(40, 3)), y=y)
    with pytest.raises(DataError, match=message):
        load_dataset(DataConfig(source=f"npz:{tmp_path / 'r.npz'}", **config))


def test_names_of_an_archive_are_those_of_the_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", x=np.ones((3, 2)), y=BINARY, labels=["cat", "dog"])
    raw = read_npz(tmp_path / "m.npz")
    assert (raw.labels, raw.y.tolist()) == (("cat", "dog"), (BINARY > 0).tolist())
    np.savez(tmp_path / "m.npz", x=np.ones((3, 2)), y=BINARY, labels=["cat"])
    with pytest.raises(DataError, match="2 columns of labels and 1 names"):
        read_npz(tmp_path / "m.npz")
