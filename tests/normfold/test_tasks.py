"""Regression and multi-label, from raw data to a served answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits
from sklearn.metrics import f1_score, mean_absolute_error, r2_score, roc_auc_score

import normfold
from normfold.models.data.data import DataConfig, load_dataset
from normfold.service.app import create_app
from normfold.service.settings import Settings
from tests.support.service import serve_app
from tests.support.waiting import wait_until_ready

pytestmark = pytest.mark.slow


def ask(repository: Path, name: str, instances: list[Any]) -> list[dict[str, Any]]:
    """Return the predictions of a service."""
    settings = Settings(repository=repository)
    with serve_app(create_app(settings), settings) as service:
        wait_until_ready(service.client)
        response = service.client.post(f"/v1/models/{name}:predict", json={"instances": instances})
        assert response.status_code == 200, response.text
        return list(response.json()["predictions"])


def test_regression_answers_in_its_unit(tmp_path: Path) -> None:
    diabetes = load_diabetes(scaled=False)
    lines = [",".join((*diabetes.feature_names, "progression"))]
    y = diabetes.target + 0.5  # with fractions, so that the task is guessed
    lines += [",".join(map(repr, row)) for row in np.column_stack([diabetes.data, y]).tolist()]
    (tmp_path / "diabetes.csv").write_text("\n".join(lines))
    result = normfold.train(
        tmp_path / "run", arch="mlp", data=f"csv:{tmp_path / 'diabetes.csv'}", unit="points", epochs=12, batch_size=64
    )
    assert result.task == "regression"
    assert result.metrics["test_r2"] > 0.3
    exported = normfold.export(tmp_path / "run", tmp_path / "models", name="diabetes")
    rows = load_dataset(result.config.data or DataConfig()).splits.test
    predictions = ask(tmp_path / "models", "diabetes", [diabetes.data[row].tolist() for row in rows])
    assert [value["name"] for value in predictions[0]["values"]] == ["progression"]
    assert predictions[0]["values"][0]["unit"] == "points"
    values, true = [one["values"][0]["value"] for one in predictions], y[rows]
    metrics = exported.manifest.card.metrics  # of the exported network, whose statistics are recalibrated
    assert r2_score(true, values) == pytest.approx(metrics["test_r2"], rel=1e-4)
    assert mean_absolute_error(true, values) == pytest.approx(metrics["test_mae"], rel=1e-4)


def write_strokes(folder: Path, count: int = 500) -> np.ndarray:
    """Write pictures of one or two digits of 0 to 4 side by side, and labels.csv; return which digits they hold."""
    digits, rng = load_digits(), np.random.default_rng(0)
    chosen = [digits.images[digits.target == number] for number in range(5)]
    lines, holds = ["file,digits"], np.zeros((count, 5), bool)
    folder.mkdir()
    for index in range(count):
        numbers = rng.choice(5, size=2, replace=False) if rng.random() < 0.8 else rng.choice(5, size=1)
        picture = np.zeros((8, 16))
        for place, number in enumerate(numbers):
            picture[:, 8 * place : 8 * place + 8] = chosen[number][rng.integers(len(chosen[number]))]
        Image.fromarray((picture * 15.9).astype(np.uint8)).save(folder / f"{index}.png")
        holds[index, numbers] = True
        lines.append(f"{index}.png,{';'.join(f'd{number}' for number in numbers)}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return holds


def test_multi_label_pictures_answer_with_the_labels_from_the_threshold(tmp_path: Path) -> None:
    holds = write_strokes(tmp_path / "pictures")
    result = normfold.train(
        tmp_path / "run",
        data=f"images:{tmp_path / 'pictures'}",
        image_size=(8, 16),
        channels=1,
        arguments={"widths": [16, 32], "blocks_per_stage": 1},
        epochs=20,
        threshold=0.4,
        class_weights="balanced",
    )
    assert result.task == "multi-label"
    assert result.metrics["test_f1"] > 0.8
    exported = normfold.export(tmp_path / "run", tmp_path / "models", name="strokes")
    dataset = load_dataset(result.config.data or DataConfig())
    assert dataset.labels == ("d0", "d1", "d2", "d3", "d4")
    rows = dataset.splits.test
    predictions = ask(tmp_path / "models", "strokes", dataset.x[rows].tolist())
    probabilities = np.array([one["probabilities"] for one in predictions])
    for one, row in zip(predictions, probabilities, strict=True):
        given = {label["label"]: label["probability"] for label in one["labels"]}
        assert given == {f"d{index}": row[index] for index in range(5) if row[index] >= 0.4}
        assert sorted(given.values(), reverse=True) == [*given.values()]
    true = holds[rows]  # labels.csv lists the files in the order of `holds`
    metrics = exported.manifest.card.metrics
    assert f1_score(true, probabilities >= 0.4, average="macro") == pytest.approx(metrics["test_f1"], abs=1e-6)
    assert roc_auc_score(true, probabilities, average="macro") == pytest.approx(metrics["test_auc"], abs=1e-6)
    classified = json.loads((tmp_path / "models" / "strokes" / "1" / "manifest.json").read_text())["card"]
    assert classified["task"] == {"kind": "multi-label", "output": "logits", "threshold": 0.4}
