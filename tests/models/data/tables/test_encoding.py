"""The encoding of a table: learned from the training rows alone, and the same in training and in the service."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normfold.contract.preprocess import RowPreprocessing
from normfold.contract.tables.columns import BooleanColumn, CategoryColumn, NumberColumn
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.models.data.data import DataConfig, Dataset, load_dataset
from normfold.models.data.tables.encoding import MAX_CATEGORIES
from normfold.models.errors import DataError, TrainingWarning

COLOURS = ("red", "green", "blue")


def write(folder: Path, columns: dict[str, list[str]]) -> str:
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return f"csv:{folder / 't.csv'}"


def columns_of(rows: int = 40, **columns: list[str]) -> dict[str, list[str]]:
    """Return a table of a number, a text and a label, with holes, and further columns."""
    age = [str(20 + row * row % 37) for row in range(rows)]
    colour = [COLOURS[row % 3] for row in range(rows)]
    age[1::10], colour[2::10] = [""] * len(age[1::10]), ["NA"] * len(colour[2::10])
    return {"age": age, "colour": colour, **columns, "y": ["no" if row % 2 else "yes" for row in range(rows)]}


def load(folder: Path, columns: dict[str, list[str]], **config: Any) -> tuple[Dataset, TablePreprocessing]:
    dataset = load_dataset(DataConfig(source=write(folder, columns), **config))
    assert isinstance(dataset.preprocessing, TablePreprocessing)
    return dataset, dataset.preprocessing


def test_table_statistics_are_of_the_training_rows_alone(tmp_path: Path) -> None:
    columns = columns_of()
    dataset, _ = load(tmp_path, columns)
    train, rest = dataset.splits.train, np.concatenate([dataset.splits.validation, dataset.splits.test])
    changed = {name: list(cells) for name, cells in columns.items()}
    for row in rest:
        changed["age"][row], changed["colour"][row] = "70", "violet"
    _, preprocessing = load(tmp_path, changed)
    age, colour = preprocessing.columns
    assert isinstance(age, NumberColumn)
    assert isinstance(colour, CategoryColumn)
    known = [float(columns["age"][row]) for row in train if columns["age"][row]]
    assert (age.mean, age.std) == (pytest.approx(np.mean(known)), pytest.approx(np.std(known)))
    assert age.missing_fraction == (len(train) - len(known)) / len(train)
    assert colour.categories == ("blue", "green", "red")


def test_table_inputs_are_standardised_numbers_and_one_input_for_each_category(tmp_path: Path) -> None:
    columns = columns_of()
    dataset, preprocessing = load(tmp_path, columns)
    assert preprocessing.input_names == (
        *("age", "colour is 'blue'", "colour is 'green'", "colour is 'red'", "colour missing"),
    )
    age = preprocessing.columns[0]
    assert isinstance(age, NumberColumn)
    tensors = dataset.tensors(np.arange(40))
    assert tensors.dtype == np.float32
    for row, tensor in enumerate(tensors):
        cell = columns["age"][row]
        assert tensor[0] == pytest.approx((float(cell) - age.mean) / age.std if cell else 0, abs=1e-6)
        places = {"blue": 0, "green": 1, "red": 2, "NA": 3}
        assert tensor[1:].tolist() == np.eye(4)[places[columns["colour"][row]]].tolist()


@pytest.mark.parametrize(
    ("missing", "names"),
    [
        (None, ("age", "flag", "colour is 'blue'", "colour is 'green'", "colour is 'red'", "colour missing")),
        ("mean", ("age", "flag", "colour is 'blue'", "colour is 'green'", "colour is 'red'")),
        (
            "category",
            (
                *("age", "age missing", "flag"),
                *("colour is 'blue'", "colour is 'green'", "colour is 'red'", "colour missing"),
            ),
        ),
    ],
)
def test_table_policies_of_missing_values(tmp_path: Path, missing: Any, names: tuple[str, ...]) -> None:
    columns = columns_of(flag=["True", "False"] * 20)
    columns = {name: columns[name] for name in ("age", "flag", "colour", "y")}
    _, preprocessing = load(tmp_path, columns, missing=missing)
    assert preprocessing.input_names == names
    assert isinstance(preprocessing.columns[1], BooleanColumn)
    inputs = preprocessing.standardise(preprocessing.decode({}))
    assert inputs[0] == 0
    colour = preprocessing.columns[2]
    assert isinstance(colour, CategoryColumn)
    if missing == "mean":
        assert inputs[2:].tolist() == np.float32(colour.frequencies).tolist()
    else:
        assert inputs[-4:].tolist() == [0, 0, 0, 1]
    if missing == "category":
        assert inputs[1] == 1


def test_table_of_numbers_without_holes_has_strict_rows_unless_a_policy_is_given(tmp_path: Path) -> None:
    columns = {"a": [str(row % 7) for row in range(40)], "y": ["u", "v"] * 20}
    source = write(tmp_path, columns)
    assert isinstance(load_dataset(DataConfig(source=source)).preprocessing, RowPreprocessing)
    assert isinstance(load_dataset(DataConfig(source=source, missing="refuse")).preprocessing, RowPreprocessing)
    assert isinstance(load_dataset(DataConfig(source=source, missing="mean")).preprocessing, TablePreprocessing)


def test_table_rare_categories_share_an_input(tmp_path: Path) -> None:
    rows = 6 * MAX_CATEGORIES
    code = [f"c{row % (MAX_CATEGORIES + 20):03d}" for row in range(rows)]
    code[: rows // 2] = [f"c{row % 10:03d}" for row in range(rows // 2)]
    with pytest.warns(TrainingWarning, match="Column 'code' holds 1[0-2][0-9] different texts"):
        _, preprocessing = load(tmp_path, {"code": code, "y": ["u", "v"] * (rows // 2)})
    (column,) = preprocessing.columns
    assert isinstance(column, CategoryColumn)
    assert (len(column.categories), column.other) == (MAX_CATEGORIES, True)
    assert set(column.categories) >= {f"c{number:03d}" for number in range(10)}
    assert sum(column.frequencies) == pytest.approx(1)
    assert preprocessing.standardise(preprocessing.decode({"code": "none"})).tolist() == [0.0] * 100 + [1.0]


@pytest.mark.parametrize(
    ("name", "cells", "message"),
    [
        ("name", [f"person {row}" for row in range(40)], "Column 'name' holds 28 different texts.*`drop` name"),
        ("id", [str(row + 1) for row in range(40)], "Column 'id' numbers the rows.*`drop` id"),
        ("same", ["one"] * 40, "Column 'same' is constant in the training split"),
    ],
)
def test_table_columns_that_teach_nothing_are_warned_of(
    tmp_path: Path, name: str, cells: list[str], message: str
) -> None:
    columns = columns_of(**{name: cells})
    with pytest.warns(TrainingWarning, match=message):
        load(tmp_path, columns)
    load(tmp_path, columns, drop=(name,))


def test_table_options_are_refused_for_other_data() -> None:
    for option, value in (("drop", ("age",)), ("category", ("age",)), ("missing", "mean"), ("missing_value", ("-1",))):
        with pytest.raises(DataError, match=f"`{option}` is for tables, csv:PATH or parquet:PATH; 'digits' is none"):
            load_dataset(DataConfig(**{"source": "digits", option: value}))


def test_table_of_other_data_is_encoded_as_in_training(tmp_path: Path) -> None:
    columns = columns_of()
    dataset, preprocessing = load(tmp_path, columns)
    other = {name: cells[:30] for name, cells in columns.items()}
    other["colour"] = ["violet" if cell == "red" else cell for cell in other["colour"]]
    given, _ = load(tmp_path, other)
    rows = np.arange(30)
    found = given.with_preprocessing(preprocessing).tensors(rows)
    expected = dataset.tensors(rows)
    violet = [cell == "violet" for cell in other["colour"]]
    assert not found[violet, 1:].any()
    np.testing.assert_array_equal(np.delete(found, np.flatnonzero(violet), 0), expected[~np.array(violet)])
    with pytest.raises(DataError, match="has no column 'colour'; its columns are: age"):
        load(tmp_path, {name: cells for name, cells in other.items() if name != "colour"})[0].with_preprocessing(
            preprocessing
        )


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Nd")), min_size=1, max_size=6)
NUMBERS = st.floats(-1e6, 1e6).map(repr) | st.integers(-1000, 1000).map(str)
MISSING = st.sampled_from(["", "NA", "?", "nan"])
CELLS = {
    "number": NUMBERS,
    "boolean": st.sampled_from(["True", "False"]),
    "text": st.sampled_from(["red", "green", " blue "]) | TEXTS,
    "mixed": st.sampled_from(["A", "2", "3.0", "B4", "C"]),
}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list[str]]:
    """Draw a table of 24 rows with columns of each kind and holes in them."""
    columns = {}
    for place, kind in enumerate(draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=5))):
        holes = draw(st.sampled_from([0, 2, 6]))
        cells = draw(st.lists(CELLS[kind], min_size=24 - holes, max_size=24 - holes))
        cells += draw(st.lists(MISSING, min_size=holes, max_size=holes))
        if kind == "mixed":
            cells[:3] = "A", "B4", "C"  # not most of the values are numbers
        columns[f"{kind} {place}"] = draw(st.permutations(cells))
    return {**columns, "y": ["u", "v", "w"] * 8}


def raw_value(text: str, kind: str) -> Any:
    """Return what a client sends for a cell of a CSV file: null, a number, true, or the text."""
    stripped = text.strip()
    if stripped in ("", "NA", "?", "nan"):
        return None if stripped else text
    if kind == "number":
        return float(text)
    return {"True": True, "False": False}[text] if kind == "boolean" else text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::normfold.models.errors.TrainingWarning")
@settings(deadline=None, max_examples=60)
@given(columns=tables(), missing=st.sampled_from([None, "mean", "category"]))
def test_table_has_the_same_tensors_in_training_and_in_the_service(
    tmp_path_factory: pytest.TempPathFactory, columns: dict[str, list[str]], missing: Any
) -> None:
    config = DataConfig(source=write(tmp_path_factory.mktemp("table"), columns), missing=missing)
    dataset = load_dataset(config)
    trained = dataset.preprocessing
    if isinstance(trained, RowPreprocessing):  # numbers alone, and no holes
        return
    assert isinstance(trained, TablePreprocessing)
    served = TablePreprocessing.model_validate_json(trained.model_dump_json())
    tensors = dataset.tensors(np.arange(24))
    for row in range(24):
        raw = {column.name: raw_value(columns[column.name][row], column.kind) for column in served.columns}
        instance = json.loads(json.dumps(raw))
        np.testing.assert_array_equal(served.standardise(served.decode(instance)), tensors[row])
        texts = [columns[name][row] for name in served.names]
        np.testing.assert_array_equal(served.standardise(served.read_texts(texts).values), tensors[row])
