from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from normfold.models.data.data import DataConfig, Dataset, load_dataset
from normfold.models.data.splits import Splits
from normfold.models.data.splitting.groups_and_times import split_by_group, split_by_time
from normfold.models.errors import DataError

FRACTIONS = {"validation_fraction": 0.1, "test_fraction": 0.2}


def parts(splits: Splits) -> list[np.ndarray]:
    return [splits.train, splits.validation, splits.test]


def save(path: Path, rows: int = 60, **arrays: np.ndarray) -> str:
    x = np.random.default_rng(0).normal(size=(rows, 2))
    np.savez(path, **({"x": x, "y": np.arange(rows) % 2} | arrays))
    return f"npz:{path}"


def load(source: str, **options: str) -> Dataset:
    return load_dataset(DataConfig(source=source, **options))


@pytest.mark.parametrize("seed", range(5))
def test_group_is_in_one_split_only(seed: int) -> None:
    groups = np.random.default_rng(seed).choice([f"patient {one}" for one in range(20)], 300)
    splits = split_by_group(groups, seed=seed, **FRACTIONS)
    found = [set(groups[part]) for part in parts(splits)]
    assert [len(one) for one in found] == [14, 2, 4]
    assert len(set.union(*found)) == 20
    assert sorted(np.concatenate(parts(splits)).tolist()) == list(range(300))


def test_time_splits_test_the_latest_rows() -> None:
    times = np.random.default_rng(0).permutation(np.arange(100) // 3)  # up to three rows of one time
    splits = split_by_time(times, **FRACTIONS)
    train, validation, test = (times[part] for part in parts(splits))
    assert train.max() < validation.min()
    assert validation.max() < test.min()
    assert 20 <= len(test) <= 22
    assert 10 <= len(validation) <= 12
    assert len(train) + len(validation) + len(test) == 100
    dates = np.datetime64("2026-01-01") + times
    assert [part.tolist() for part in parts(split_by_time(dates, **FRACTIONS))] == [
        part.tolist() for part in parts(splits)
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_groups_or_times_are_refused(count: int) -> None:
    values = np.arange(40) % count
    with pytest.raises(DataError, match=f"has {count} groups, too few"):
        split_by_group(values, seed=0, **FRACTIONS)
    with pytest.raises(DataError, match=f"has {count} different times, too few"):
        split_by_time(values, **FRACTIONS)


def test_groups_of_an_archive_decide_its_splits(tmp_path: Path) -> None:
    groups = np.arange(60) // 2 % 15
    dataset = load(save(tmp_path / "x.npz", groups=groups))
    found = [set(groups[part].tolist()) for part in parts(dataset.splits)]
    assert not found[0] & found[1] | found[0] & found[2] | found[1] & found[2]
    times = np.arange(60)[::-1].copy()
    assert load(save(tmp_path / "x.npz", times=times)).splits.test.tolist() == list(range(12))
    with pytest.raises(DataError, match="has groups and times; splits can follow one of them only"):
        load(save(tmp_path / "x.npz", times=times, groups=groups))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"groups": np.arange(59)}, "Array 'groups' of '.*' must hold whole numbers or texts, one for each sample"),
        ({"times": np.array([np.nan] * 60)}, "Array 'times' of '.*' has no value for sample 0"),
        ({"times": np.array(["NaT"] * 60, "M8[D]")}, "Array 'times' of '.*' has no value for sample 0"),
        ({"y": np.arange(60) // 30, "times": np.arange(60) * -1}, None),
        ({"y": np.arange(60) // 55, "times": np.arange(60)}, "Class '1' has no row in the training split"),
    ],
)
def test_wrong_groups_and_times_are_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str | None) -> None:
    source = save(tmp_path / "x.npz", **arrays)
    if message is None:
        assert len(load(source).splits.train) == 42
        return
    with pytest.raises(DataError, match=message):
        load(source)
