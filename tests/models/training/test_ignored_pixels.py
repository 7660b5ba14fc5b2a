"""Training and evaluation leave pixels of masks without a class out."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from normfold.contract.source_card import IGNORED
from normfold.models.batchnorm.recalibrate_run import recalibrate_run
from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.errors import DataError
from normfold.models.tasks.segmentation import Segmentation
from normfold.models.tasks.task import Result
from normfold.models.training.checkpoint import load_checkpoint, make_run_config
from normfold.models.training.config import TrainConfig
from normfold.models.training.distributed import make_accelerator, release
from normfold.models.training.evaluate import evaluate
from normfold.models.training.train import fit, train_one_epoch

BATCHES = [np.arange(6), np.arange(6, 10)]


def pixels() -> tuple[torch.Tensor, torch.Tensor]:
    """Ten images of one channel, and their masks of three classes; most pixels of the first six have none."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (10, 4, 5), generator=generator)
    y[:6, 1:] = IGNORED
    y[7, 2, 3] = IGNORED
    return torch.randn(10, 1, 4, 5, generator=generator), y


def by_hand(logits: np.ndarray, y: np.ndarray) -> Result:
    """Loss, accuracy and mean IoU in float64 of the pixels with a class: logits (N, classes, H, W), y (N, H, W)."""
    keep = y >= 0
    rows, true = np.moveaxis(logits.astype(np.float64), 1, -1)[keep], y[keep]
    predicted = rows.argmax(1)
    losses = np.log(np.exp(rows).sum(1)) - rows[np.arange(len(true)), true]
    ious = [
        ((predicted == c) & (true == c)).sum() / ((predicted == c) | (true == c)).sum()
        for c in range(rows.shape[1])
        if ((predicted == c) | (true == c)).any()
    ]
    return Result(
        float(losses.mean()), {"accuracy": float((predicted == true).mean()), "mean_iou": float(np.mean(ious))}
    )


def test_evaluation_counts_the_pixels_with_a_class_only(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Conv2d(1, 3, 1)
    x, y = pixels()
    with torch.no_grad():
        wanted = by_hand(network(x).numpy(), y.numpy())

    for values in (2**22, 3 * 20):  # in one batch, in several of different counts
        monkeypatch.setattr("normfold.models.training.evaluate.MAX_VALUES", values)
        found = evaluate(network, x, y, Segmentation())
        assert found.loss == pytest.approx(wanted.loss, rel=1e-6)
        assert found.metrics == pytest.approx(wanted.metrics, rel=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_epoch_is_that_of_the_pixels_with_a_class(smoothing: float) -> None:
    """Steps and means equal those of a loss that is given these pixels alone."""
    network, (x, y) = nn.Conv2d(1, 3, 1), pixels()
    other = copy.deepcopy(network)
    settings = TrainConfig(epochs=1, batch_size=32, label_smoothing=smoothing)
    by_gradient, found_logits = torch.optim.SGD(other.parameters(), lr=0.1), []
    for rows in BATCHES:
        logits, keep = other(x[rows]), y[rows] >= 0
        found_logits.append(logits.detach().numpy())
        chosen = logits.movedim(1, -1)[keep]
        target = torch.full_like(chosen, smoothing / 3)
        target[torch.arange(len(chosen)), y[rows][keep]] += 1 - smoothing
        by_gradient.zero_grad()
        (-(target * chosen.log_softmax(1)).sum(1).mean()).backward()  # type: ignore[no-untyped-call]
        by_gradient.step()

    accelerator = make_accelerator(settings)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normfold.models.training.train.one_cycle", lambda *_: 0.1)
        found = train_one_epoch(network, x, y, BATCHES, optimizer, settings, 1, accelerator, Segmentation(smoothing))
    release(accelerator)

    wanted = by_hand(np.concatenate(found_logits), y.numpy())
    assert (found.loss, found.metrics["accuracy"]) == pytest.approx((wanted.loss, wanted.metrics["accuracy"]), rel=1e-6)
    assert torch.allclose(network.weight, other.weight, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_run_has_the_classes_of_its_pixels_and_metrics_of_these_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (60, 4, 4)).astype(np.uint8)
    x = (y + rng.uniform(0, 0.8, y.shape)).astype(np.float32)
    y[rng.uniform(size=y.shape) < 0.4] = 255
    np.savez(tmp_path / "masks.npz", x=x, y=y)
    data = DataConfig(source=f"npz:{tmp_path / 'masks.npz'}", ignore_index=255)
    dataset = load_dataset(data)
    config = make_run_config("unet", {"widths": [4]}, data, dataset, TrainConfig(epochs=2, batch_size=32))

    result = fit(config, dataset, tmp_path / "run")

    loaded = load_checkpoint(result.folder)
    assert (loaded.config.card.labels, loaded.config.architecture.classes) == (("0", "1"), 2)
    for split, rows in (("validation", dataset.splits.validation), ("test", dataset.splits.test)):
        with torch.no_grad():
            logits = loaded.network(torch.from_numpy(dataset.tensors(rows))).numpy()
        wanted = by_hand(logits, np.where(y[rows] == 255, -1, y[rows].astype(np.int64)))
        assert result.metrics[f"{split}_loss"] == pytest.approx(wanted.loss, rel=1e-5)
        assert result.metrics[f"{split}_accuracy"] == pytest.approx(wanted.metrics["accuracy"], rel=1e-12)
        assert result.metrics[f"{split}_mean_iou"] == pytest.approx(wanted.metrics["mean_iou"], rel=1e-12)
    record = recalibrate_run(result.folder).record
    assert record is not None
    assert record.accuracy_before["test"] == pytest.approx(result.metrics["test_accuracy"], rel=1e-12)


def test_run_on_classes_of_samples_refuses_an_ignored_value(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).normal(size=(30, 2)), y=np.arange(30) % 2)
    data = DataConfig(source=f"npz:{tmp_path / 'rows.npz'}", ignore_index=255)

    with pytest.raises(DataError, match=r"^`ignore_index` is for masks; .* has one class for each sample\.$"):
        make_run_config("mlp", {}, data, load_dataset(data), TrainConfig())
