"""Raw rows of a table through :predict: texts, null, missing keys, unknown categories; errors name the column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from onnx import helper

from normfold.contract.manifest import TensorSpec
from normfold.contract.source_card import SourceCard
from normfold.contract.tables.columns import BooleanColumn, CategoryColumn, NumberColumn, TableColumn
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.service.app import create_app
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.service import Service, serve_app

COLUMNS: tuple[TableColumn, ...] = (
    NumberColumn(name="age", mean=40, std=10, missing="mean", missing_fraction=0.1),
    NumberColumn(name="pulse", mean=70, std=5, missing="mean"),
    BooleanColumn(name="smokes", mean=0.5, std=0.5, missing="refuse"),
    CategoryColumn(
        name="colour",
        categories=("blue", "red"),
        frequencies=(0.5, 0.5),
        missing="category",
        missing_fraction=0.2,
    ),
    CategoryColumn(name="code", categories=("1", "2.0"), frequencies=(0.4, 0.4, 0.2), other=True, missing="zeros"),
)
TABLE = TablePreprocessing(columns=COLUMNS, ignored=("label",))
ROW = {"age": 50, "pulse": 70, "smokes": True, "colour": "red", "code": "1"}
INPUTS = [1, 0, 1, 0, 1, 0, 1, 0, 0]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a network that returns its inputs."""
    writer = BundleWriter(tmp_path_factory.mktemp("repository"))
    writer.write(
        "table",
        1,
        [helper.make_node("Identity", ["input"], ["output"])],
        [TensorSpec(name="input", datatype="FP32", shape=(-1, len(INPUTS)))],
        [TensorSpec(name="output", datatype="FP32", shape=(-1, len(INPUTS)))],
        card=SourceCard(preprocessing=TABLE),
    )
    settings = Settings(repository=writer.root, provider="cpu")
    with serve_app(create_app(settings), settings) as service:
        service.wait_until_loaded()
        yield service


def predict(service: Service, *instances: Any) -> Any:
    return service.client.post("/v1/models/table:predict", json={"instances": instances})


def count(service: Service, column: str, found: str) -> float:
    text = service.client.get("/metrics").text
    line = re.search(rf'normfold_table_values_total{{column="{column}",found="{found}",.*}} (\S+)', text)
    assert line is not None
    return float(line[1])


@pytest.mark.parametrize(
    ("row", "inputs"),
    [
        (ROW, INPUTS),
        (list(ROW.values()), INPUTS),
        (ROW | {"label": "yes"}, INPUTS),
        (ROW | {"age": None}, [0, *INPUTS[1:]]),
        (ROW | {"age": "?"}, [0, *INPUTS[1:]]),
        ({name: value for name, value in ROW.items() if name != "age"}, [0, *INPUTS[1:]]),
        (ROW | {"colour": None}, [1, 0, 1, 0, 0, 1, 1, 0, 0]),
        (ROW | {"colour": " blue "}, [1, 0, 1, 1, 0, 0, 1, 0, 0]),
        (ROW | {"code": 1}, INPUTS),
        (ROW | {"code": 2}, [*INPUTS[:6], 0, 1, 0]),
        (ROW | {"smokes": "false"}, [1, 0, -1, *INPUTS[3:]]),
        (ROW | {"smokes": 0}, [1, 0, -1, *INPUTS[3:]]),
    ],
)
def test_table_row_is_read_raw(rows: Service, row: Any, inputs: list[float]) -> None:
    response = predict(rows, row)
    assert response.json() == {"predictions": [inputs]}


def test_table_row_with_values_that_training_did_not_have_is_answered_with_notes(rows: Service) -> None:
    before = [count(rows, "colour", "unknown"), count(rows, "pulse", "missing"), count(rows, "age", "missing")]
    given = [ROW, ROW | {"colour": "violet", "age": None}, ROW | {"pulse": None, "code": "x"}]
    answer = predict(rows, *given).json()
    assert answer["predictions"][1:] == [[0, 0, 1, 0, 0, 0, 1, 0, 0], [*INPUTS[:6], 0, 0, 1]]
    unknown, missing, rare = answer["notes"]
    assert (unknown["instance"], unknown["column"]) == (1, "colour")
    assert "'colour' has the text 'violet', which is none of 'blue', 'red'; the network gets 0 in" in unknown["note"]
    assert (missing["instance"], missing["column"]) == (2, "pulse")
    assert "had one in every training row; the network gets the mean of training, 70" in missing["note"]
    assert "the network gets the input of rare categories" in rare["note"]
    after = [count(rows, "colour", "unknown"), count(rows, "pulse", "missing"), count(rows, "age", "missing")]
    assert [one - other for one, other in zip(after, before, strict=True)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (ROW | {"age": "old"}, "Column 'age' takes numbers, not the text 'old'"),
        (ROW | {"age": True}, "Column 'age' takes numbers, not true"),
        (ROW | {"age": 1e39}, "Column 'age' has 1e+39, which is not a finite float32 number"),
        (ROW | {"age": 10**60}, "Column 'age' has 1e+60, which is not a finite float32 number"),
        (ROW | {"age": [1]}, "Column 'age' takes numbers, not a list"),
        (ROW | {"colour": {"a": 1}}, "Column 'colour' takes a text, not an object"),
        (ROW | {"smokes": 2}, "Column 'smokes' takes true or false, not 2"),
        (ROW | {"smokes": None}, "Column 'smokes' has no value"),
        (ROW | {"wieght": 3}, "unknown columns ['wieght']; it takes ['age', 'pulse'"),
        ([1, 2], "Expected a row of 5 values, got 2"),
        ("row", "Expected a row as an object by column or as a list of values, not the text 'row'"),
    ],
)
def test_table_row_that_does_not_fit_is_refused(rows: Service, row: Any, says: str) -> None:
    response = predict(rows, ROW, row)
    assert response.status_code == 400
    assert response.json()["error"].startswith("Instance 1: ")
    assert says in response.json()["error"]


def test_table_row_is_described_with_the_kind_of_each_column(rows: Service) -> None:
    (model,) = rows.client.get("/v1/models").json()["models"]
    schema = model["versions"][0]["row"]
    kinds = {name: column["type"] for name, column in schema["properties"].items()}
    text = ["string", "number", "boolean", "null"]
    assert kinds == {
        "age": ["number", "null"],
        "pulse": ["number", "null"],
        "smokes": "boolean",
        "colour": text,
        "code": text,
    }
    assert schema["required"] == ["smokes"]
    assert schema["properties"]["colour"]["examples"] == ["blue", "red"]
