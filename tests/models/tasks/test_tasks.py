"""Losses and metrics of the tasks, beside scikit-learn's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch
from sklearn.utils.class_weight import compute_class_weight

from normfold.contract.outputs.task import MultiLabel as MultiLabelCard
from normfold.contract.outputs.task import Regression as RegressionCard
from normfold.contract.source_card import IGNORED, SourceCard
from normfold.models.data.batches import epoch_batches
from normfold.models.data.data import DataConfig, Dataset, load_dataset
from normfold.models.data.targets import TargetScale
from normfold.models.errors import DataError, FunctionError
from normfold.models.tasks.choose import make_task
from normfold.models.tasks.classification import Classification
from normfold.models.tasks.multi_label import MultiLabel
from normfold.models.tasks.regression import Regression
from normfold.models.tasks.task import Result, Task
from normfold.models.tasks.weights import class_weights, row_weights


def measure(task: Task, outputs: torch.Tensor, y: torch.Tensor) -> Result:
    """Return the final result of outputs in three batches."""
    meter = task.new_meter(is_final=True)
    for xb, yb in zip(outputs.tensor_split(3), y.tensor_split(3), strict=True):
        meter.update(xb, yb)
    return meter.result()


def test_classification_has_f1_auc_and_confusion_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(4, (60,), generator=generator)
    logits = torch.randn(60, 5, generator=generator)  # the last class never occurs
    found = measure(Classification(), logits, y)
    predicted, true = logits.argmax(1).numpy(), y.numpy()
    assert found.metrics["f1"] == pytest.approx(sklearn.metrics.f1_score(true, predicted, average="macro"), rel=1e-9)
    probabilities = logits.softmax(1).numpy()
    areas = [sklearn.metrics.roc_auc_score(true == k, probabilities[:, k]) for k in range(4)]
    assert found.metrics["auc"] == pytest.approx(np.mean(areas), rel=1e-9)
    assert found.confusion is not None
    np.testing.assert_array_equal(found.confusion, sklearn.metrics.confusion_matrix(true, predicted, labels=range(5)))


def test_regression_has_metrics_in_units() -> None:
    rng = np.random.default_rng(0)
    scale = TargetScale(np.array([100.0, -3.0]), np.array([20.0, 0.5]))
    true = rng.normal(size=(40, 2)) * scale.std + scale.mean
    values = true + rng.normal(size=(40, 2)) * [5, 0.2]
    task = Regression(("age", "height"), scale)
    outputs, y = (torch.from_numpy(scale.standardise(array)) for array in (values, true))
    found = measure(task, outputs, y)
    for index, name in enumerate(("age", "height")):
        one, other = true[:, index], values[:, index]
        assert found.metrics[f"mae_{name}"] == pytest.approx(sklearn.metrics.mean_absolute_error(one, other), rel=1e-4)
        rmse = sklearn.metrics.root_mean_squared_error(one, other)
        assert found.metrics[f"rmse_{name}"] == pytest.approx(rmse, rel=1e-4)
        assert found.metrics[f"r2_{name}"] == pytest.approx(sklearn.metrics.r2_score(one, other), rel=1e-4)
    assert found.metrics["r2"] == pytest.approx(sklearn.metrics.r2_score(true, values), rel=1e-4)
    assert found.loss == pytest.approx(task.loss(outputs, y).item(), rel=1e-6)
    assert {"mae", "rmse", "r2"} == measure(Regression(("a",), scale), outputs[:, :1], y[:, :1]).metrics.keys()


def test_regression_of_one_row_has_no_variance_and_no_fault() -> None:
    task = Regression(("a",), TargetScale(np.zeros(1), np.ones(1)))
    meter = task.new_meter()
    meter.update(torch.ones(1, 1), torch.zeros(1, 1))
    assert meter.result() == Result(1.0, {"r2": 0.0, "mae": 1.0, "rmse": 1.0})


def test_multi_label_has_f1_of_each_label_and_auc() -> None:
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(50, 3, generator=generator) < 0.4).float()
    logits = torch.randn(50, 3, generator=generator) + y
    found = measure(MultiLabel(("a", "b", "c"), 0.7), logits, y)
    given, true = (logits.sigmoid() >= 0.7).numpy(), y.numpy() > 0
    by_label = sklearn.metrics.f1_score(true, given, average=None)
    assert [found.metrics[f"f1_{name}"] for name in "abc"] == pytest.approx(by_label.tolist(), rel=1e-9)
    assert found.metrics["f1"] == pytest.approx(by_label.mean(), rel=1e-9)
    assert found.metrics["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(true, logits.numpy()), rel=1e-9)
    assert found.metrics["accuracy"] == pytest.approx((given == true).mean())


def test_metric_of_a_card_decides_on_the_best_epoch_too() -> None:
    assert SourceCard().metric == Classification.metric
    assert (RegressionCard.metric, MultiLabelCard.metric) == (Regression.metric, MultiLabel.metric)


def test_sums_of_an_epoch_are_those_of_an_evaluation() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, classes = torch.randn(30, 3, generator=generator), torch.randint(3, (30,), generator=generator)
    flags = (torch.rand(30, 3, generator=generator) < 0.5).float()
    scale = TargetScale(np.zeros(3), np.ones(3))
    tasks: list[tuple[Task, torch.Tensor]] = [
        (Classification(0.1), classes),
        (MultiLabel(("a", "b", "c"), 0.5), flags),
        (Regression(("a", "b", "c"), scale), logits.flip(0)),
    ]
    for task, y in tasks:
        sums = sum(task.sums(xb, yb).double() for xb, yb in zip(logits.tensor_split(2), y.tensor_split(2), strict=True))
        assert isinstance(sums, torch.Tensor)
        assert task.of_sums(sums.tolist()).loss == pytest.approx(measure(task, logits, y).loss, rel=1e-5)


def dataset_of(tmp_path: Path, y: np.ndarray) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(y), 3)) if y.ndim < 3 else rng.normal(size=y.shape)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    return load_dataset(DataConfig(source=f"npz:{tmp_path / 'd.npz'}"))


def test_balanced_weights_are_inverse_to_the_rows_of_a_class(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, np.repeat([0, 1, 2], [10, 20, 70]))
    train = dataset.y[dataset.splits.train]
    weights = class_weights(dataset, "balanced")
    assert weights is not None
    expected = compute_class_weight("balanced", classes=np.arange(3), y=train)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)
    task, y = Classification(weights=weights), torch.from_numpy(train)
    logits = torch.randn(len(y), 3, generator=torch.Generator().manual_seed(0))
    losses = torch.nn.functional.cross_entropy(logits, y, reduction="none").numpy()
    assert task.loss(logits, y).item() == pytest.approx(np.average(losses, weights=expected[train]), rel=1e-5)


def test_balanced_weights_of_labels_are_those_without_over_those_with(tmp_path: Path) -> None:
    y = np.zeros((80, 2), np.int64)
    y[:20, 0] = y[:60, 1] = 1
    dataset = dataset_of(tmp_path, y)
    having = y[dataset.splits.train].mean(axis=0)
    weights = class_weights(dataset, "balanced")
    assert weights is not None
    np.testing.assert_allclose(weights.numpy(), (1 - having) / having, rtol=1e-6)


def test_balanced_sampler_draws_every_class_as_often(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, np.repeat([0, 1], [30, 970]))
    train = dataset.y[dataset.splits.train]
    weights = row_weights(dataset, "balanced")
    rows = np.concatenate(epoch_batches(len(train), 64, seed=0, epoch=1, weights=weights))
    assert len(rows) == len(train)
    assert 0.42 < train[rows].mean() < 0.58
    assert row_weights(dataset, None) is None


def test_weights_of_another_task_are_refused(tmp_path: Path) -> None:
    regression = dataset_of(tmp_path, np.linspace(0, 1, 40))
    for call, message in (
        (lambda: class_weights(regression, "balanced"), "cannot be balanced for regression"),
        (lambda: row_weights(regression, "balanced"), "the task is regression"),
        (lambda: make_task(regression, threshold=0.3), "`threshold` is for multi-label"),
        (lambda: class_weights(regression, (1.0, 2.0)), "or 1 positive numbers"),
    ):
        with pytest.raises(DataError, match=message):
            call()


OWN = """
import torch

def absolute(outputs, targets):
    return (outputs - targets).abs().mean()

def max_error(outputs, targets):
    return (outputs - targets).abs().max()

def text(outputs, targets):
    return "many"

def rows(outputs, targets):
    return (outputs - targets).abs()

def wrong(outputs, targets):
    raise ValueError("of no use")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module of the user's own functions."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def test_own_loss_and_metric_are_called_with_outputs_and_targets(tmp_path: Path, own: str) -> None:
    dataset = dataset_of(tmp_path, np.linspace(0, 1, 40))
    task = make_task(dataset, loss=f"{own}:absolute", metrics=(f"{own}:max_error",))
    outputs, y = torch.randn(30, 1), torch.randn(30, 1)
    assert task.loss(outputs, y).item() == (outputs - y).abs().mean().item()
    found = measure(task, outputs, y)
    assert found.loss == pytest.approx((outputs - y).abs().mean().item(), rel=1e-6)
    assert dataset.target_scale is not None
    max_error = (outputs - y).abs().max().item() * dataset.target_scale.std[0]  # metrics get values in units
    assert found.metrics["max_error"] == pytest.approx(max_error, rel=1e-6)
    assert found.metrics.keys() == {"r2", "mae", "rmse", "max_error"}
    sums = task.sums(outputs, y).tolist()
    assert task.of_sums(sums).loss == pytest.approx(found.loss, rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "metric", "message"),
    [
        ("nowhere", None, "is not of the form module:function"),
        ("no_such_module_at_all:f", None, "There is no module 'no_such_module_at_all'"),
        ("OWN:nothing", None, "has no function 'nothing'"),
        ("OWN:rows", None, r"returned a tensor \[30, 1\]; it must return a tensor of one number"),
        ("OWN:wrong", None, r"failed on outputs \[30, 1\] and targets \[30, 1\]: ValueError: of no use"),
        (None, "OWN:text", "`metric` 'text' returned many; it must return a finite number"),
        (None, "OWN:wrong", "`metric` 'wrong' failed on outputs"),
    ],
)
def test_own_function_that_cannot_be_used_is_named(
    tmp_path: Path, own: str, loss: str | None, metric: str | None, message: str
) -> None:
    dataset = dataset_of(tmp_path, np.linspace(0, 1, 40))
    outputs, y = torch.randn(30, 1), torch.randn(30, 1)
    names = [None if name is None else name.replace("OWN", own) for name in (loss, metric)]

    def use() -> None:
        task = make_task(dataset, loss=names[0], metrics=() if names[1] is None else (names[1],))
        task.loss(outputs, y)
        measure(task, outputs, y)

    with pytest.raises(FunctionError, match=message):
        use()


def test_pixels_without_a_class_have_no_weight(tmp_path: Path) -> None:
    y = np.random.default_rng(0).integers(0, 2, (40, 4, 4))
    dataset = dataset_of(tmp_path, y)
    masks = torch.from_numpy(dataset.y[dataset.splits.train])
    masks[:, 0] = IGNORED
    weights = class_weights(dataset, (1.0, 3.0))
    loss = make_task(dataset, weights=(1.0, 3.0)).loss(torch.zeros(len(masks), 2, 4, 4), masks)
    assert weights is not None
    assert loss.item() == pytest.approx(np.log(2), rel=1e-5)
