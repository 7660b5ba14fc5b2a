"""Adapting a bundle is what re-estimating in torch and exporting again would be; and it brings accuracy back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.contract.source_card import SourceCard
from normfold.export.bundle.export import export_bundle
from normfold.export.verify.verify import verify
from normfold.models.architectures.registry import FACTORIES
from normfold.models.data.data import DataConfig, Dataset, load_dataset
from normfold.models.onnx.to_onnx import InputSpec, checkpoint_to_onnx, to_onnx
from normfold.models.training.checkpoint import load_checkpoint, make_run_config
from normfold.models.training.config import TrainConfig
from normfold.models.training.train import fit
from tests.support.command import RunCommand

torch.set_num_threads(1)

SHAPE = (3, 32, 32)
NETWORKS: dict[str, dict[str, Any]] = {
    "convnet": {"widths": (4, 8)},
    "resnet": {"depths": (2, 1), "widths": (4, 8)},
    "mobilenet": {"depths": (1, 2), "widths": (8, 12)},
    "repvgg": {"depths": (2, 1), "widths": (4, 6)},
    "densenet": {"depths": (2, 2), "growth_rate": 4},
    "unet": {"widths": (4, 6, 8)},
}
"""Networks with every kind of block that they have by default, but few and narrow ones."""


@torch.no_grad()
def reestimate_in_torch(network: nn.Module, samples: Tensor, prior: float) -> None:
    """Correct each BatchNorm on what the corrected ones before it give: just before it runs, in one pass."""

    def correct(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()
        over = [0, *range(2, x.ndim)]
        for running, sampled in (
            (layer.running_mean, x.mean(over)),
            (layer.running_var, x.var(over, correction=0)),
        ):
            running.copy_((prior * running.double() + len(x) * sampled) / (prior + len(x)))

    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    handles = [norm.register_forward_pre_hook(correct) for norm in norms]
    network(samples)
    for handle in handles:
        handle.remove()


def made(name: str) -> nn.Module:
    """Build a network in evaluation mode, with parameters and statistics as training might leave them."""
    generator = torch.manual_seed(0)
    network = FACTORIES[name](input_shape=SHAPE, classes=5, **NETWORKS[name])
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
            nn.init.normal_(module.running_mean, 0, 0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "prior"), [*((name, 16.0) for name in NETWORKS), ("repvgg", 0.0), ("resnet", 0.0)])
def test_adapted_bundle_equals_recalibration_in_torch_and_a_new_export(
    name: str, prior: float, normfold: RunCommand, tmp_path: Path
) -> None:
    network = made(name)
    samples = 0.5 + 2 * torch.randn(48, *SHAPE, generator=torch.Generator().manual_seed(1))
    to_onnx(network, tmp_path / "before.onnx", {"input": InputSpec(SHAPE)}, outputs=["logits"])
    export_bundle(tmp_path / "before.onnx", tmp_path / "models", "net", card=SourceCard(logits=("logits",)))
    np.savez(tmp_path / "samples.npz", input=samples.numpy())

    code, _, err = normfold("adapt", "models/net", "--samples", "samples.npz", "--prior", str(prior))

    assert (code, err) == (0, "")
    reestimate_in_torch(network, samples, prior)
    to_onnx(network, tmp_path / "after.onnx", {"input": InputSpec(SHAPE)}, outputs=["logits"])
    by_torch = export_bundle(tmp_path / "after.onnx", tmp_path / "models", "by_torch").path
    adapted = tmp_path / "models" / "net" / "2"
    for one in (tmp_path / "after.onnx", by_torch / "model.onnx"):
        for other in (adapted / "unfolded.onnx", adapted / "model.onnx"):
            verify(one, other).require()
    assert not verify(tmp_path / "before.onnx", adapted / "model.onnx").passes


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    """An exported convnet that learnt digits for a moment, and the data."""
    folder = tmp_path_factory.mktemp("digits")
    data = DataConfig(validation_fraction=0.15)
    dataset = load_dataset(data)
    fit(make_run_config("convnet", {}, data, dataset, TrainConfig(epochs=4)), dataset, folder / "run")
    exported = checkpoint_to_onnx(load_checkpoint(folder / "run"), folder / "digits.onnx")
    card = SourceCard.model_validate_json(exported.card_path.read_text())
    for name, takes_pixels in (("digits", False), ("pixels", True)):
        export_bundle(folder / "digits.onnx", folder / "models", name, card=card, takes_pixels=takes_pixels)
    return folder / "models", dataset


CORRUPTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "low contrast, lifted": lambda x: 0.2 * x + 0.4,
    "brightness": lambda x: x + 0.5,
    "contrast": lambda x: 0.3 * x,
}


def accuracy(bundle: Path, dataset: Dataset, change: Callable[[np.ndarray], np.ndarray]) -> float:
    """Of the served model, on the test split changed, with x from 0 to 1."""
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    tensors = dataset.preprocessing.standardise(16 * change(dataset.x[dataset.splits.test] / 16))
    (logits,) = session.run(None, {"input": tensors})
    return float((logits.argmax(axis=1) == dataset.y[dataset.splits.test]).mean())


def adapted(normfold: RunCommand, models: Path, dataset: Dataset, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Adapt to 200 unlabelled validation samples, changed, in raw units, at the default prior."""
    rows = dataset.splits.validation[:200]
    assert len(rows) == 200
    np.savez("samples.npz", x=16 * change(dataset.x[rows] / 16))
    code, out, _ = normfold("adapt", str(models / "digits"), "--version", "1", "--samples", "samples.npz", "--json")
    assert code == 0
    return models / "digits" / str(json.loads(out)["version"])


@pytest.mark.slow
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_accuracy_comes_back_after_a_change_of_light(
    corruption: str, normfold: RunCommand, digits: tuple[Path, Dataset]
) -> None:
    models, dataset = digits
    change = CORRUPTIONS[corruption]
    clean = accuracy(models / "digits" / "1", dataset, lambda x: x)

    bundle = adapted(normfold, models, dataset, change)

    assert clean > 0.95
    assert accuracy(models / "digits" / "1", dataset, change) < clean - 0.3
    assert accuracy(bundle, dataset, change) > clean - 0.05


@pytest.mark.slow
def test_adapting_to_unchanged_data_costs_almost_no_accuracy(
    normfold: RunCommand, digits: tuple[Path, Dataset]
) -> None:
    models, dataset = digits
    clean = accuracy(models / "digits" / "1", dataset, lambda x: x)

    bundle = adapted(normfold, models, dataset, lambda x: x)

    assert accuracy(bundle, dataset, lambda x: x) > clean - 0.01


@pytest.mark.slow
def test_network_that_takes_pixels_is_adapted(normfold: RunCommand, digits: tuple[Path, Dataset]) -> None:
    models, dataset = digits
    rows, test = dataset.splits.validation[:200], dataset.splits.test
    preprocessing = dataset.preprocessing
    assert preprocessing.kind == "image"
    pixels = preprocessing.to_pixels(0.3 * dataset.x[test])
    np.savez("samples.npz", input=preprocessing.to_pixels(0.3 * dataset.x[rows]))

    assert normfold("adapt", str(models / "pixels"), "--samples", "samples.npz")[0] == 0

    found = []
    for number in "12":
        session = onnxruntime.InferenceSession(
            models / "pixels" / number / "model.onnx", providers=["CPUExecutionProvider"]
        )
        (logits,) = session.run(None, {"input": pixels})
        found.append((logits.argmax(axis=1) == dataset.y[test]).mean())
    assert found[0] < 0.6
    assert found[1] > accuracy(models / "digits" / "1", dataset, lambda x: x) - 0.05
