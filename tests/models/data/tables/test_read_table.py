"""Tables as they are read: kinds of columns, labels, delimiters, missing values; errors name row and column."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from normfold.models.data.tables.options import TableOptions
from normfold.models.data.tables.read_table import Table, read_table
from normfold.models.errors import DataError

NAN = float("nan")


def read(folder: Path, text: str, **options: Any) -> tuple[Table, list[Any]]:
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    table, labels, names = read_table(path, "csv", TableOptions(**options))
    return table, labels[:, 0].tolist() if len(names) == 1 else labels.tolist()


def kinds(table: Table) -> dict[str, str]:
    return {column.name: column.kind for column in table.columns}


def values(table: Table, name: str) -> list[Any]:
    """Return the values of a column, with its texts in place of indices."""
    (column,) = (column for column in table.columns if column.name == name)
    return [
        None if np.isnan(value) else column.texts[int(value)] if column.texts else value
        for value in column.values.tolist()
    ]


def write_parquet(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


def test_csv_of_numbers_is_plain(tmp_path: Path) -> None:
    table, labels = read(tmp_path, "\ufeffa,kind,b\n1,x,2.5\n\n-3e2,y,0\n", label_column="kind")
    assert table.is_plain
    assert table.values().tolist() == [[1, 2.5], [-300, 0]]
    assert labels == ["x", "y"]


def test_csv_label_column_is_the_last_that_is_not_dropped(tmp_path: Path) -> None:
    table, labels = read(tmp_path, "a,b,y,note\n1,2,x,u\n3,4,z,v\n", drop=("note",))
    assert (kinds(table), labels, table.ignored) == ({"a": "number", "b": "number"}, ["x", "z"], ("y", "note"))


def test_csv_labels_in_several_columns_and_with_a_decimal_comma(tmp_path: Path) -> None:
    table, labels = read(tmp_path, "a;u;v\n1;0,5;2\n3;1,25;3\n", label_column="u,v")
    assert (kinds(table), labels, table.ignored) == ({"a": "number"}, [["0.5", "2"], ["1.25", "3"]], ("u", "v"))


def test_csv_columns_have_the_kind_of_all_their_values(tmp_path: Path) -> None:
    text = "n,b,t,mixed,y\n1,true,red,1,x\n?,FALSE,blue,A2,x\n2.5,,red,B3,z\n"
    table, _ = read(tmp_path, text)
    assert kinds(table) == {"n": "number", "b": "boolean", "t": "category", "mixed": "category"}
    assert values(table, "n") == [1, None, 2.5]
    assert values(table, "b") == [1, 0, None]
    assert values(table, "mixed") == ["1", "A2", "B3"]


@pytest.mark.parametrize("text", ["", " ", "NA", "NaN", "nan", "null", "NULL", "?", "N/A", "<NA>"])
def test_csv_spellings_of_missing_values(tmp_path: Path, text: str) -> None:
    table, _ = read(tmp_path, f"a,b,y\n{text},{text},x\n1,red,z\n")
    assert (values(table, "a"), values(table, "b")) == ([None, 1], [None, "red"])


def test_csv_missing_value_of_ones_own(tmp_path: Path) -> None:
    table, _ = read(tmp_path, "a,b,y\n-999,None,x\n1,red,z\n", missing_values=("-999", "None"))
    assert (values(table, "a"), values(table, "b")) == ([None, 1], [None, "red"])
    assert values(read(tmp_path, "a,b,y\n-999,None,x\n1,red,z\n")[0], "b") == ["None", "red"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_csv_with_another_delimiter(tmp_path: Path, delimiter: str) -> None:
    lines = ["a,name,y", "3,5,Meier", "4,0,Huber"] if delimiter == "," else [["a", "t", "y"], ["3,5", "u", "p"]]
    lines = [delimiter.join(line) for line in [*lines, ["4", "v, w", "q"]]]
    table, labels = read(tmp_path, "\n".join(lines) + "\n")
    assert (values(table, "a"), values(table, "t"), labels) == ([3.5, 4], ["u", "v, w"], ["p", "q"])


def test_csv_with_commas_and_a_line_break_in_quotes(tmp_path: Path) -> None:
    table, _ = read(tmp_path, 'a,t,y\n1,"one; two, three",x\n2,"four\nfive",z\n')
    assert values(table, "t") == ["one; two, three", "four\nfive"]


def test_csv_index_of_pandas_has_its_name(tmp_path: Path) -> None:
    table, _ = read(tmp_path, ",a,y\n0,5,x\n1,6,z\n")
    assert kinds(table) == {"Unnamed: 0": "number", "a": "number"}


def test_csv_numbers_and_dates_are_categories_if_asked_for(tmp_path: Path) -> None:
    text = "zip,day,y\n08001,2024-01-02,x\n8001,2024-01-03,z\n"
    table, _ = read(tmp_path, text, categories=("zip", "day"))
    assert kinds(table) == {"zip": "category", "day": "category"}
    assert values(table, "zip") == ["08001", "8001"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,y\n1,1e300,x\n", "Row 2 of .* has '1e300' in column 'b', which is not a finite float32 number"),
        ("a,b,y\n1,inf,x\n", "Row 2 of .* has 'inf' in column 'b', which is not a finite"),
        ("a,b,y\n1,2,\n", "Row 2 of .* has no value in column 'y', a label column"),
        ("a,b,y\n1,2,x\n1,2,NA\n", "Row 3 of .* has 'NA', which means a missing value, in column 'y'"),
        ("a,b,y\n1,2\n", "Row 2 of .* has 2 values, the header 3"),
        ("a;b;y\n1;2\n", "Row 2 of .* has 2 values, the header 3"),
        ("a,b,y\n1,,x\n2,NA,y\n", "Column 'b' of .* holds no value; leave it out with `drop` b"),
        (
            "a,b,y\n1,,x\n2,3,y\nthree,3,y\n4,3,y\n",
            "Row 4 of .* has the text 'three' in column 'a', .* numbers; correct",
        ),
        (
            "a,b,y\n1,2024-01-02,x\n2,2024-01-03,y\n",
            "Column 'b' of .* holds dates or times, such as '2024-01-02'; leave",
        ),
        ("a,b,y\n1,2024-01-02T10:00:00Z,x\n2,?,y\n", "Column 'b' of .* dates"),
        ("a,b,y\n1,02.01.2024,x\n2,3.1.24,y\n", "Column 'b' of .* dates"),
        ("a,b,y\n1,10:30,x\n2,11:45:10,y\n", "Column 'b' of .* dates"),
        ("a,a,y\n1,2,x\n", "different names"),
        ("y\nx\n", "at least two columns"),
        ("", "at least two columns"),
        ("a,y\n", "a header and no rows"),
    ],
)
def test_csv_error_names_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_column": "z"}, "has no column 'z'; its columns are: a, b, y"),
        ({"drop": ("z",)}, "has no column 'z'"),
        ({"categories": ("z",)}, "has no column 'z'"),
        ({"drop": ("a", "b")}, "no column beside those of labels and those that are left out"),
        ({"drop": ("a", "b", "y")}, "no column beside those that are left out"),
        ({"drop": ("y",), "label_column": "y"}, "Column 'y' is both a label column and left out"),
        (
            {"missing": "refuse"},
            "Row 3 of .* has the text '\\?', a missing value, in column 'b', and",
        ),
    ],
)
def test_csv_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, "a,b,y\n1,2,x\n1,?,z\n", **options)


def test_csv_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with pytest.raises(DataError, match=r"t\.csv' cannot be read: No such file"):
        read_table(path, "csv", TableOptions())
    path.write_bytes(b"a,y\n\xff\xfe,x\n")
    with pytest.raises(DataError, match="not a comma-separated UTF-8 table"):
        read_table(path, "csv", TableOptions())


def test_parquet_columns_have_the_kind_of_their_values(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path, n=[1, None, 3], f=[0.5, NAN, 2.0], b=[True, False, None], t=["u", None, "?"], y=[1, 0, 1]
    )
    table, labels, _ = read_table(path, "parquet", TableOptions())
    assert kinds(table) == {"n": "number", "f": "number", "b": "boolean", "t": "category"}
    assert (values(table, "n"), values(table, "f")) == ([1, None, 3], [0.5, None, 2])
    assert (values(table, "b"), values(table, "t"), labels.tolist()) == (
        [1, 0, None],
        ["u", None, None],
        [["1"], ["0"], ["1"]],
    )


def test_parquet_faults_are_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, d=[datetime.date(2024, 1, 2)] * 2, y=["a", "b"])
    with pytest.raises(DataError, match="Column 'd' of .* holds dates or times, such as '2024-01-02'"):
        read_table(path, "parquet", TableOptions())
    path = write_parquet(tmp_path, d=[[1], [2]], y=["a", "b"])
    with pytest.raises(DataError, match="Column 'd' of .* is of type list<.*; a table holds numbers"):
        read_table(path, "parquet", TableOptions())
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"t\.parquet' is not a Parquet file"):
        read_table(path, "parquet", TableOptions())
    with pytest.raises(DataError, match=r"u\.parquet' cannot be read: No such file"):
        read_table(tmp_path / "u.parquet", "parquet", TableOptions())
