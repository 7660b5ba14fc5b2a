"""What can go wrong between a data set and an ONNX file.

InputError
├── DataError                   a data set cannot be found, read or split
├── ArchitectureError           no such network, a wrong option, or a factory that fails
├── RunFolderError              a run folder exists already, or cannot be resumed
├── WeightsError                a file of weights is missing, damaged, or of another network
└── OnnxExportError             a network cannot be written as ONNX
    ├── TrainModeError          a layer is in train mode
    └── NoRunningStatisticsError    a BatchNorm keeps no running mean and variance
CheckError
├── DivergedError               the loss is no longer a finite number
├── UnmeasurableError           a trained network's loss on held-out rows is not finite
└── StatisticsError             there is no mean and variance of what a BatchNorm gets
    └── UnsteadyCallsError          it is called by some batches and not by others
SetupError
└── PrecisionError              this machine cannot train in the precision asked for

UserWarning
└── TrainingWarning             goes on, but the result may be worse than it could be
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from normfold.contract.errors import CheckError, InputError, SetupError


class DataError(InputError):
    """A data set cannot be found, read or split."""


class ArchitectureError(InputError):
    """No such network, a wrong option, or a factory that fails."""


class RunFolderError(InputError):
    """A run folder cannot be used."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"Run folder {str(folder)!r} {problem}")
        self.folder, self.problem = folder, problem


class WeightsError(InputError):
    """A file of weights or the config beside it is missing, damaged, or belongs to another network."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{str(path)!r} {problem}")
        self.path, self.problem = path, problem


class OnnxExportError(InputError):
    """A network cannot be written as ONNX."""


class TrainModeError(OnnxExportError):
    """A layer is in train mode: its exported graph would look right and be another function."""

    def __init__(self, layers: Sequence[str]) -> None:
        which = f"Layer {layers[0]!r} is" if len(layers) == 1 else f"Layer {layers[0]!r} and {len(layers) - 1} more are"
        super().__init__(f"{which} in train mode; call network.eval() before exporting.")
        self.layers = tuple(layers)


class NoRunningStatisticsError(OnnxExportError):
    """A BatchNorm keeps no running statistics, so it normalises by the batch even in eval mode."""

    def __init__(self, layer: str) -> None:
        super().__init__(
            f"Layer {layer!r} keeps no running mean and variance, so there are none to export; "
            "build it with track_running_stats=True and train it."
        )
        self.layer = layer


class DivergedError(CheckError):
    """The loss is no longer a finite number."""

    def __init__(self, epoch: int, loss: float, lr: float) -> None:
        intact = f" The checkpoint up to epoch {epoch - 1} is intact." if epoch > 1 else ""
        super().__init__(
            f"The loss became {loss} in epoch {epoch}; try a lower --lr (it was {lr:g}) or --clip-norm 1, or look for "
            f"extreme values in the data.{intact}"
        )
        self.epoch, self.loss, self.lr = epoch, loss, lr


class UnmeasurableError(CheckError):
    """A trained network's loss on a split is not finite, so the run folder cannot record it."""

    def __init__(self, split: str, loss: float, folder: Path) -> None:
        super().__init__(
            f"The loss on the {split} split is {loss}: look for extreme values in the data, mend them, and train into "
            f"another --out. The checkpoint in {str(folder)!r} is intact, and records no such loss."
        )
        self.split, self.loss, self.folder = split, loss, folder


class StatisticsError(CheckError):
    """There is no mean and variance of what a BatchNorm gets."""

    def __init__(self, layer: str, problem: str) -> None:
        super().__init__(f"The statistics of BatchNorm {layer!r} cannot be taken anew: it {problem}")
        self.layer, self.problem = layer, problem


class UnsteadyCallsError(StatisticsError):
    """A BatchNorm is called by some batches and not by others, so that it has no statistics of its own."""

    def __init__(self, layer: str) -> None:
        super().__init__(layer, "is called by some batches and not by others.")


class PrecisionError(SetupError):
    """This machine cannot train in the precision asked for."""


class TrainingWarning(UserWarning):
    """Training goes on, but the result may be worse than it could be."""
