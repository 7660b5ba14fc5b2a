"""Errors and warnings of data sets, training, BatchNorm statistics and the export to ONNX.

InputError
├── DataError                       a data set cannot be found, read or split
├── ArchitectureError               unknown network, wrong option, or a factory that fails
├── CompilationError                a network cannot be compiled
├── ConfigFileError                 a file of settings cannot be read, or has a wrong field
├── FreezingError                   the parameters that are to be frozen are none, or all
├── FunctionError                   a loss or metric of the user's own cannot be found, or fails
├── RunFolderError                  a run folder exists already, or cannot be resumed
├── WeightsError                    a file of weights is missing, damaged, or of another network
└── OnnxExportError                 a network cannot be exported to ONNX
    ├── TrainModeError              a layer is in train mode
    └── NoRunningStatisticsError    a BatchNorm keeps no running mean and variance
CheckError
├── DivergedError                   the loss is not finite during training
├── UnmeasurableError               the loss of the trained network on a split is not finite
├── LearningRateError               no learning rate can be suggested
└── StatisticsError                 the running statistics of a BatchNorm cannot be recalibrated
    └── VaryingCallsError           some batches call the layer, others do not
SetupError
├── CompilerError                   the machine has no working compiler for torch.compile
├── PrecisionError                  the machine cannot train in this precision
└── SynchronisationError            BatchNorm cannot be synchronised over processes without GPUs

UserWarning
└── NormfoldWarning
    ├── TrainingWarning             training goes on, and its result may be worse than it could be
    └── WeightsWarning              what was chosen, converted or left out of a file of weights
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from normfold.contract.errors import CheckError, InputError, SetupError


class DataError(InputError):
    """A data set cannot be found, read or split."""

    names_arguments = True


class ArchitectureError(InputError):
    """Unknown network, wrong option, or a factory that fails."""


class FreezingError(InputError):
    """The parameters that are to be frozen are none, or all of them."""

    names_arguments = True


class FunctionError(InputError):
    """A loss or metric of the user's own cannot be imported, fails, or returns something else than a number."""

    names_arguments = True


class CompilationError(InputError):
    """A network cannot be compiled by torch.compile."""

    names_arguments = True

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} cannot be compiled: {reason.rstrip('.')}; train it without `compile`.")
        self.name, self.reason = name, reason


class ConfigFileError(InputError):
    """A file of settings cannot be read, or has a wrong field."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{str(path)!r} {problem}")
        self.path, self.problem = path, problem


class RunFolderError(InputError):
    """A run folder exists already, or cannot be resumed."""

    names_arguments = True

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"Run folder {str(folder)!r} {problem}")
        self.folder, self.problem = folder, problem


class WeightsError(InputError):
    """A file of weights or the config beside it is missing, damaged, or belongs to another network."""

    names_arguments = True

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{str(path)!r} {problem}")
        self.path, self.problem = path, problem


class OnnxExportError(InputError):
    """A network cannot be exported to ONNX."""


class TrainModeError(OnnxExportError):
    """A layer is in train mode; the exported graph would be valid, and compute another function."""

    def __init__(self, layers: Sequence[str]) -> None:
        which = f"Layer {layers[0]!r} is" if len(layers) == 1 else f"Layer {layers[0]!r} and {len(layers) - 1} more are"
        super().__init__(f"{which} in train mode; call network.eval() before exporting.")
        self.layers = tuple(layers)


class NoRunningStatisticsError(OnnxExportError):
    """A BatchNorm keeps no running statistics, and normalises by the batch even in eval mode."""

    def __init__(self, layer: str) -> None:
        super().__init__(
            f"Layer {layer!r} keeps no running mean and variance to export; build it with track_running_stats=True and "
            "train it."
        )
        self.layer = layer


class DivergedError(CheckError):
    """The loss is not finite during training."""

    names_arguments = True

    def __init__(self, epoch: int, loss: float, lr: float) -> None:
        intact = f" The checkpoint up to epoch {epoch - 1} is intact." if epoch > 1 else ""
        super().__init__(
            f"The loss became {loss} in epoch {epoch}; try a lower `lr` (it was {lr:g}) or `clip_norm` 1, or look for "
            f"extreme values in the data.{intact}"
        )
        self.epoch, self.loss, self.lr = epoch, loss, lr


class UnmeasurableError(CheckError):
    """The loss of the trained network on a split is not finite, so that the run folder cannot record it."""

    names_arguments = True

    def __init__(self, split: str, loss: float, folder: Path) -> None:
        super().__init__(
            f"The loss on the {split} split is {loss}: look for extreme values in the data, correct them, and train "
            f"into another `out`. The checkpoint in {str(folder)!r} is intact, but does not record this loss."
        )
        self.split, self.loss, self.folder = split, loss, folder


class LearningRateError(CheckError):
    """No learning rate can be suggested, since the loss falls at none."""

    def __init__(self, lowest: float, highest: float, picture: Path) -> None:
        super().__init__(
            f"The loss falls at no learning rate from {lowest:g} to {highest:g}, so none is suggested; "
            f"{str(picture)!r} shows it."
        )
        self.lowest, self.highest, self.picture = lowest, highest, picture


class StatisticsError(CheckError):
    """The running statistics of a BatchNorm cannot be recalibrated."""

    def __init__(self, layer: str, problem: str) -> None:
        super().__init__(f"The statistics of BatchNorm {layer!r} cannot be recalibrated: it {problem}")
        self.layer, self.problem = layer, problem


class VaryingCallsError(StatisticsError):
    """Some batches call a BatchNorm, and others do not, so that its statistics depend on the batches."""

    def __init__(self, layer: str) -> None:
        super().__init__(layer, "is called for some batches and not for others.")


class CompilerError(SetupError):
    """The machine has no working compiler for torch.compile."""

    names_arguments = True

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"torch.compile does not work here: {reason.rstrip('.')}; install a C++ compiler (g++ or clang) and "
            "Python's headers, on a GPU Triton too, or train without `compile`."
        )
        self.reason = reason


class PrecisionError(SetupError):
    """The machine cannot train in this precision."""


class SynchronisationError(SetupError):
    """BatchNorm is to be synchronised over processes without GPUs, which torch cannot."""

    names_arguments = True

    def __init__(self, processes: int) -> None:
        super().__init__(
            f"BatchNorm cannot be synchronised over {processes} processes on CPUs; leave out `sync_bn`, train on GPUs, "
            "or in one process."
        )
        self.processes = processes


class NormfoldWarning(UserWarning):
    """What a user should know of something that went on; the command prints it as one sentence."""


class TrainingWarning(NormfoldWarning):
    """Training goes on, and its result may be worse than it could be."""


class WeightsWarning(NormfoldWarning):
    """What was chosen, converted or left out of a file of weights."""
