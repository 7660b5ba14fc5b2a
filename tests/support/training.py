"""Training runs of tests, and networks that were never trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.models.architectures.registry import FACTORIES, Architecture, build
from normfold.models.data.data import Dataset
from normfold.models.onnx.to_onnx import InputSpec, to_onnx
from normfold.models.training.callback import TrainingCallback
from normfold.models.training.checkpoint import RunConfig
from normfold.models.training.metrics import EpochMetrics

MakeRun = Callable[..., tuple[RunConfig, Dataset]]
"""Type of the fixture `make_run`: a function of an architecture's name, its options, and fields of TrainConfig."""

ARCHITECTURES = sorted(name for name in FACTORIES if not name[-1].isdigit())
"""Names without a size: those with one are the same architectures, larger."""
_SMALL: dict[str, dict[str, Any]] = {
    "densenet": {"depths": [2, 2], "growth_rate": 4},
    "mobilenet": {"depths": [1, 2], "widths": [8, 12], "strides": [1, 2]},
}


def write_architecture(name: str, path: Path) -> tuple[int, ...]:
    """Write a small network of an architecture, with random weights and statistics; return the shape of a sample."""
    torch.manual_seed(0)
    shape = (2, 16) if name == "temporal" else (1, 8, 8)
    network = build(Architecture(name=name, options=_SMALL.get(name, {}), input_shape=shape, classes=10)).eval()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.normal_(module.bias, std=0.2)
    to_onnx(network, path, {"input": InputSpec(shape)})
    return shape


class StopAfter(TrainingCallback):
    """Interrupts as Ctrl-C does, in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.last, self.done = epoch, 0

    def on_epoch(self, metrics: EpochMetrics) -> None:
        self.done = metrics.epoch

    def on_step(self) -> None:
        if self.done == self.last:
            raise KeyboardInterrupt
