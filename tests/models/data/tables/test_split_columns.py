from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from normfold.models.data.data import DataConfig, Dataset, load_dataset
from normfold.models.errors import DataError

ROWS = 40


def write(path: Path, when: list[str], colours: str = "rgb") -> str:
    """Write a table of patients with a text, a missing value, a time and a class."""
    lines = ["patient,when,size,colour,label"]
    for row in range(ROWS):
        size = "" if row == 3 else f"{row % 7}.5"
        lines.append(f"p{row // 4},{when[row % len(when)]},{size},{colours[row % len(colours)]},{'ab'[row % 2]}")
    path.write_text("\n".join(lines) + "\n")
    return f"csv:{path}"


def load(source: str, **options: str) -> Dataset:
    return load_dataset(DataConfig(source=source, **options))


DATES = [f"2026-{month:02}-{day:02}" for day in (28, 3, 17) for month in (12, 2, 7, 10)]


def test_rows_of_one_group_of_a_table_are_in_one_split(tmp_path: Path) -> None:
    dataset = load(write(tmp_path / "t.csv", ["1", "2"]), group_column="patient")
    of = [set((rows // 4).tolist()) for rows in (dataset.splits.train, dataset.splits.validation, dataset.splits.test)]
    assert [len(one) for one in of] == [7, 1, 2]
    assert len(set.union(*of)) == 10
    assert dataset.table is not None
    assert [column.name for column in dataset.table.columns] == ["when", "size", "colour"]


@pytest.mark.parametrize("when", [DATES, [f"{one}T10:00+02:00" for one in DATES], [str(n) for n in range(12, 0, -1)]])
def test_latest_rows_of_a_table_are_tested(tmp_path: Path, when: list[str]) -> None:
    dataset = load(write(tmp_path / "t.csv", when), time_column="when")
    key = (lambda text: float(text)) if when[0] == "12" else (lambda text: text)
    train, validation, test = (
        [key(when[row % len(when)]) for row in rows]
        for rows in (dataset.splits.train, dataset.splits.validation, dataset.splits.test)
    )
    assert max(train) < min(validation)
    assert max(validation) < min(test)
    assert len(test) >= 8


@pytest.mark.parametrize(
    ("when", "options", "message"),
    [
        (
            ["soon"],
            {"time_column": "when"},
            "Row 2 of '.*t.csv' has the text 'soon' in column 'when', which",
        ),
        (["1", ""], {"time_column": "when"}, "Row 3 of '.*t.csv' has no value in column 'when'"),
        (["2026-01-01", "2026-01-01T01+01:00"], {"time_column": "when"}, "Row 3 of .* they cannot be compared"),
        (["1"], {"group_column": "who"}, "'.*t.csv' has no column 'who'; its columns are: patient, when"),
        (["1"], {"group_column": "label", "label_column": "label"}, "Column 'label' of '.*t.csv' is a label column"),
        (["1", "2", "3"], {"group_column": "patient", "time_column": "when"}, "follow one of them only"),
    ],
)
def test_wrong_column_of_groups_or_times_is_named(
    tmp_path: Path, when: list[str], options: dict[str, str], message: str
) -> None:
    source = write(tmp_path / "t.csv", when)
    with pytest.raises(DataError, match=message):
        load(source, **options)


def test_table_of_its_own_is_encoded_as_the_training_table(tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", ["1", "2"])
    dataset = load(train, test_data=write(tmp_path / "b.csv", ["2", "1"], "bx"))
    alone = load(train, test_data=train)
    test = dataset.splits.test
    assert test.tolist() == list(range(ROWS, 2 * ROWS))
    assert dataset.input_shape == alone.input_shape
    assert dataset.preprocessing == alone.preprocessing
    blue = alone.tensors(np.asarray([2]))[0]  # category b of the training table
    assert (dataset.tensors(test)[0][-3:] == blue[-3:]).all()
    (tmp_path / "c.csv").write_text("size,colour,label\n1,r,a\n2,g,b\n")
    with pytest.raises(DataError, match="'csv:.*c.csv' does not fit the training data: The table has no column"):
        load(train, validation_data=f"csv:{tmp_path / 'c.csv'}")
