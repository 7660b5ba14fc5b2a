"""From a raw table with texts and missing values to served answers, and to every command that takes its bundle."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_wine

import normfold
from normfold.contract.drift.monitor import MONITOR_CARD_NAME, MONITOR_NAME, read_monitor
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.models.batchnorm.recalibrate_run import load_training_data
from tests.support.service import StartService
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::normfold.models.errors.TrainingWarning"),
]


class Trained(NamedTuple):
    """A run on a raw table, its bundle, and the rows of the table as texts."""

    run: normfold.TrainResult
    table: Path
    repository: Path
    rows: list[dict[str, str]]


def write_wine(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    """Write scikit-learn's wine with an id, a text derived from the alcohol, a boolean, and a tenth of it missing."""
    wine, rng = load_wine(), np.random.default_rng(0)
    names = [name.replace("/", " ") for name in wine.feature_names]
    rows = []
    for number, (values, target) in enumerate(zip(wine.data, wine.target, strict=True)):
        row = dict(zip(names, map(str, values.tolist()), strict=True))
        row["strength"] = "light" if values[0] < 12.5 else "medium" if values[0] < 13.5 else "strong"
        row["old"] = str(values[12] > 700)
        for name in row:
            if rng.random() < 0.1:
                row[name] = str(rng.choice(["", "NA", "NaN", "null", "?"]))
        rows.append({"id": f"W{number:03d}", **row, "cultivar": str(wine.target_names[target])})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("wine")
    rows = write_wine(folder / "wine.csv")
    run = normfold.train(
        folder / "run",
        arch="mlp",
        data=f"csv:{folder / 'wine.csv'}",
        label_column="cultivar",
        drop=["id"],
        epochs=10,
        batch_size=32,
    )
    normfold.export(folder / "run", folder / "repository", name="wine")
    return Trained(run, folder / "wine.csv", folder / "repository", rows)


def raw(row: dict[str, str]) -> dict[str, Any]:
    """Return a row as a client sends it: null for missing values, numbers, true and false, texts."""
    values: dict[str, Any] = {}
    for name, text in row.items():
        if text in ("", "NA", "NaN", "null", "?"):
            values[name] = None
        elif name in ("id", "strength", "cultivar"):
            values[name] = text
        else:
            values[name] = {"True": True, "False": False}[text] if name == "old" else float(text)
    return values


def without_missing(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def test_table_with_texts_and_missing_values_is_served_raw(trained: Trained, start: StartService) -> None:
    dataset = load_training_data(trained.run.config)
    preprocessing = dataset.preprocessing
    assert isinstance(preprocessing, TablePreprocessing)
    rows = [raw(row) for row in trained.rows]
    tensors = dataset.tensors(np.arange(len(rows)))
    for row, tensor in zip(rows, tensors, strict=True):  # training's tensor is the service's, bit for bit
        np.testing.assert_array_equal(preprocessing.standardise(preprocessing.decode(row)), tensor)

    service = start(trained.repository)
    inputs = {"name": "input", "datatype": "FP32", "shape": list(tensors.shape), "data": tensors.ravel().tolist()}
    outputs = service.client.post("/v2/models/wine/infer", json={"inputs": [inputs]}).json()["outputs"]
    logits = np.array(outputs[0]["data"]).reshape(len(rows), 3)
    for sent in (rows, [without_missing(row) for row in rows]):
        answer = service.client.post("/v1/models/wine:predict", json={"instances": sent})
        assert answer.status_code == 200
        assert "notes" not in answer.json()
        predictions = answer.json()["predictions"]
        assert [one["index"] for one in predictions] == logits.argmax(axis=1).tolist()
    assert service.client.get("/v2/models/wine/drift").json()["monitored"]
    labels = [row["cultivar"] for row in trained.rows]
    accuracy = np.mean([one["label"] == label for one, label in zip(predictions, labels, strict=True)])
    assert accuracy > 0.9

    with normfold.Client(str(service.client.base_url)) as client, pytest.warns(UserWarning, match="Row 0: .*'mild'"):
        client.predict("wine", [rows[0] | {"strength": "mild"}])


def test_table_columns_are_monitored_for_drift_by_name(trained: Trained, start: StartService) -> None:
    dataset = load_training_data(trained.run.config)
    assert isinstance(dataset.preprocessing, TablePreprocessing)
    folder = trained.repository / "wine" / "1"
    columns = read_monitor(folder / MONITOR_CARD_NAME).layers[0]
    assert columns.names == dataset.preprocessing.input_names
    session = onnxruntime.InferenceSession(folder / MONITOR_NAME, providers=["CPUExecutionProvider"])
    tensors = dataset.tensors(dataset.splits.train)
    means, squares = session.run([columns.means, columns.squares], {"input": tensors})
    np.testing.assert_allclose(means.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(squares.mean(axis=0), columns.variances, atol=1e-5)

    service = start(trained.repository)
    rows = [raw(row) | {"hue": 9.0} for row in trained.rows[:8]]
    service.client.post("/v1/models/wine:predict", json={"instances": rows})
    wait_for(lambda: service.client.get("/v2/models/wine/drift").json()["layers"])
    (columns_drift, *_) = service.client.get("/v2/models/wine/drift").json()["layers"]
    assert columns_drift["node"] == "input"
    assert columns_drift["worst_channels"][0]["name"] == "hue"


def test_table_bundle_is_adapted_quantised_audited_and_checked(trained: Trained, tmp_path: Path) -> None:
    header, *lines = trained.table.read_text().splitlines()
    shuffled = np.random.default_rng(0).permutation(lines)
    (tmp_path / "new.csv").write_text("\n".join([header, *shuffled]))
    adapted = normfold.adapt(trained.repository, "wine", tmp_path / "new.csv", allow_partial=True)
    assert adapted.samples == len(lines)
    int8 = normfold.export(trained.run.folder, tmp_path, name="wine", precision="int8")
    assert int8.manifest.card.preprocessing == trained.run.config.card.preprocessing
    for audit in (normfold.audit(trained.run.folder), normfold.audit(trained.run.folder, data=f"csv:{trained.table}")):
        assert audit.audit.differences
    with normfold.load_repository(trained.repository) as models:
        with pytest.warns(UserWarning, match="Row 0: .*'mild'"):
            (prediction,) = models["wine"].predict([raw(trained.rows[0]) | {"strength": "mild"}])
        assert prediction.label in ("class_0", "class_1", "class_2")


def test_table_as_parquet_gives_the_same_network(trained: Trained, tmp_path: Path) -> None:
    rows = [raw(row) for row in trained.rows]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "wine.parquet")
    run = normfold.train(
        tmp_path / "run",
        arch="mlp",
        data=f"parquet:{tmp_path / 'wine.parquet'}",
        label_column="cultivar",
        drop=["id"],
        epochs=1,
    )
    assert run.config.card.preprocessing == trained.run.config.card.preprocessing


def test_table_of_a_spreadsheet_gives_the_same_encoding(trained: Trained, tmp_path: Path) -> None:
    write_wine(tmp_path / "wine.csv", delimiter=";")
    text = (tmp_path / "wine.csv").read_text()
    header, body = text.split("\n", 1)
    (tmp_path / "wine.csv").write_text(f"{header}\n{body.replace('.', ',')}")
    config = trained.run.config.data
    assert config is not None
    moved = config.model_copy(update={"source": f"csv:{tmp_path / 'wine.csv'}"})
    dataset = load_training_data(trained.run.config.model_copy(update={"data": moved}))
    assert dataset.preprocessing == trained.run.config.card.preprocessing


def test_table_run_is_not_resumed_with_another_policy(trained: Trained) -> None:
    with pytest.raises(normfold.errors.RunFolderError, match="was trained with missing=None, not 'mean'"):
        normfold.train(trained.run.folder, missing="mean", resume=True)
    with pytest.raises(normfold.errors.ArgumentError, match="`missing` must be 'mean', 'category' or 'refuse', not"):
        normfold.train(trained.run.folder.parent / "other", missing="median")
