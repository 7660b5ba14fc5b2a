"""Training on a GPU: run only where torch sees one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from normfold.models.data.data import Dataset
from normfold.models.tasks.classification import Classification
from normfold.models.training.checkpoint import load_checkpoint
from normfold.models.training.evaluate import evaluate
from normfold.models.training.train import fit
from tests.support.training import MakeRun, StopAfter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU, or no build of torch for it")


def measured_on_cpu(folder: Path, dataset: Dataset) -> float:
    rows = dataset.splits.test
    x, y = torch.from_numpy(dataset.tensors(rows)), torch.from_numpy(dataset.y[rows])
    return evaluate(load_checkpoint(folder).network, x, y, Classification()).metrics["accuracy"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_run_learns_on_the_gpu_and_its_checkpoint_loads_on_the_cpu(
    tmp_path: Path, make_run: MakeRun, precision: str
) -> None:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    config, dataset = make_run(epochs=8, precision=precision)
    result = fit(config, dataset, tmp_path / "run")
    assert torch.cuda.max_memory_allocated() > before
    assert result.metrics["test_accuracy"] > 0.9
    assert measured_on_cpu(result.folder, dataset) == result.metrics["test_accuracy"]
    assert {value.dtype for value in load_checkpoint(result.folder).network.parameters()} == {torch.float32}


def test_interrupted_run_resumes_on_the_gpu(tmp_path: Path, make_run: MakeRun) -> None:
    """Not bit for bit: cuDNN adds gradients up in no fixed order."""
    config, dataset = make_run(epochs=8)
    with pytest.raises(KeyboardInterrupt):
        fit(config, dataset, tmp_path / "run", callback=StopAfter(4))
    resumed = fit(config, dataset, tmp_path / "run", resume=True)
    assert resumed.epochs == 8
    assert measured_on_cpu(resumed.folder, dataset) > 0.9


def test_second_run_may_use_the_cpu(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    config, dataset = make_run(epochs=1)
    fit(config, dataset, tmp_path / "on-gpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    fit(config, dataset, tmp_path / "on-cpu")
    assert torch.cuda.max_memory_allocated() == before
