"""A repository with one version of a small network, and samples to adapt it to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from normfold.contract.source_card import SourceCard
from normfold.export.bundle.export import export_bundle
from tests.support.onnx_models import shifted_inputs, small_convnet


@pytest.fixture
def card() -> SourceCard:
    """The card of version 1 of net."""
    return SourceCard(labels=("a", "b", "c"), logits=("y",), metrics={"test_accuracy": 0.5}, origin="a test")


@pytest.fixture
def repository(tmp_path: Path, card: SourceCard) -> Path:
    """A repository with version 1 of net: Conv, BatchNormalization, Relu, Gemm; x (n, 4, 5, 5), y (n, 3)."""
    onnx.save(small_convnet(np.random.default_rng(0)), tmp_path / "net.onnx")
    export_bundle(tmp_path / "net.onnx", tmp_path / "models", "net", card=card)
    return tmp_path / "models"


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """64 inputs, unlike those that the statistics of `repository` come from."""
    np.savez(tmp_path / "samples.npz", x=shifted_inputs(), y=np.zeros(64))
    return tmp_path / "samples.npz"
