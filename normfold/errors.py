"""Every error that Normfold raises on purpose, in one tree.

Each carries its facts as attributes, and one sentence that says what is wrong and what to do::

    NormfoldError
    ├── InputError                          a file, a name, a shape or an option cannot be used; exit code 2
    │   ├── ArgumentError                   an argument is wrong, or does not go with another
    │   ├── ModelFileError                  a file is not an ONNX model that can be read and checked
    │   ├── TrainingModeError               no BatchNormalization of an ONNX model is frozen: training mode
    │   ├── ModelInputError                 inputs for the verification do not fit, or cannot be made
    │   ├── PixelError                      a model cannot take 8-bit pixels
    │   ├── ManifestError                   a manifest or source card cannot be read, or a field is wrong
    │   ├── MonitorError                    monitor.json cannot be read, or a field of it is wrong
    │   ├── DamagedBundleError              a bundle's folder does not agree with its manifest
    │   ├── BundleExportError               a bundle cannot be written under this name, version or card
    │   ├── NotAdaptableError               a bundle's statistics cannot be recalibrated from its files
    │   ├── UnfoldError                     a network cannot be given BatchNormalization nodes again
    │   ├── RepairError                     BatchNormalization nodes cannot be put into inference mode
    │   ├── QuantizeError                   a network cannot be quantised from what is there
    │   ├── SampleError                     samples cannot be read, or are not what the network takes
    │   ├── TritonError                     a Triton model cannot be imported, or its configuration not be written
    │   ├── RepositoryError                 a repository cannot carry out a command
    │   │   ├── NoRepositoryError           the repository is not a folder
    │   │   ├── NoModelError                the repository has no model of that name
    │   │   ├── UnknownVersionError         the model has no such version
    │   │   ├── ForeignFolderError          a model's folder is a symbolic link out of the repository
    │   │   └── VersionChoiceError          the versions cannot be rolled back to, or deleted
    │   ├── DataError                       a data set cannot be found, read or split
    │   ├── TableFileError                  a file is not a readable table
    │   ├── ArchitectureError               unknown network, wrong option, or a factory that fails
    │   ├── CompilationError                a network cannot be compiled by torch.compile
    │   ├── ConfigFileError                 a file of settings cannot be read, or has a wrong field
    │   ├── FreezingError                   the parameters that are to be frozen are none, or all
    │   ├── FunctionError                   a loss or metric of your own cannot be found, or fails
    │   ├── RunFolderError                  a run folder exists already, or cannot be resumed
    │   ├── WeightsError                    a file of weights is missing, damaged, or of another network
    │   ├── OnnxExportError                 a torch network cannot be exported to ONNX
    │   │   ├── TrainModeError              a layer is in train mode
    │   │   └── NoRunningStatisticsError    a BatchNorm keeps no running statistics
    │   ├── RawInputError                   a raw input does not fit the network's preprocessing
    │   ├── RequestError                    a request to a loaded model is wrong, or not allowed
    │   │   ├── InvalidRequestError         the inputs are not what the model takes
    │   │   ├── UnsuitableModelError        the model does not support the call
    │   │   ├── UnknownModelError           no model, or no version of it, has that name
    │   │   ├── ResponseTooLargeError       the outputs are over the limit on responses
    │   │   ├── FailingTensorsError         the network fails on these inputs, and not on others
    │   │   └── UnwritableOutputError       an output has NaN or infinity, which JSON cannot carry
    │   └── SettingsError                   a setting of the service is wrong
    │       └── KeysError                   the key file is missing or broken
    ├── CheckError                          a check failed; exit code 1
    │   ├── FoldError                       a folded graph is not valid; exit code 70
    │   ├── VerificationError               a folded model does not reproduce the original
    │   ├── Float16OverflowError            a value exceeds what float16 can hold
    │   ├── Float16GraphError               a float16 graph is not valid; exit code 70
    │   ├── PrecisionLossError              a network of lower precision is too far from float32, or not faster
    │   ├── DamagedVersionError             a version in a repository is not what was exported
    │   ├── DamagedFolderError              a version's folder that should be copied is not what was exported
    │   ├── AdaptationError                 the samples do not allow recalibrating statistics
    │   │   ├── SampleCountError            the samples are too few, or too many
    │   │   ├── IdenticalSamplesError       all samples are the same
    │   │   ├── UnstableSamplesError        the first half of the samples is not like the second
    │   │   └── SampleStatisticsError       the statistics of the samples are not finite
    │   ├── DivergedError                   the loss is not finite during training
    │   ├── LearningRateError               no learning rate can be suggested
    │   ├── UnmeasurableError               the loss of a trained network is not finite
    │   └── StatisticsError                 the statistics of a BatchNorm cannot be recalibrated
    │       └── VaryingCallsError           some batches call the BatchNorm, and others do not
    ├── SetupError                          the environment lacks something; exit code 3
    │   ├── MissingPackageError             a package of an extra is not installed
    │   ├── RuntimePackageError             no ONNX Runtime is installed, or more than one
    │   ├── ProviderError                   a provider was requested and is not available
    │   ├── CompilerError                   the machine has no working compiler for torch.compile
    │   ├── PrecisionError                  the machine cannot train in this precision
    │   ├── SynchronisationError            BatchNorm cannot be synchronised over processes without GPUs
    │   ├── ReadError                       a folder cannot be read
    │   ├── WriteError                      a file or folder cannot be written
    │   └── UnreachableError                a service does not answer (ClientError too)
    ├── ServingError                        the request is right, and the model cannot answer it
    │   ├── ModelUnavailableError           the model is loading, or could not be loaded
    │   ├── QueueFullError                  the model's queue is full
    │   ├── DeadlineError                   the deadline of the request passed before the answer
    │   ├── UnloadedError                   the model was unloaded while the request was queued
    │   └── RunError                        the network failed while it ran
    └── ClientError                         a request of Client was not answered as it should be
        └── ResponseError                   the service answered with an error
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from normfold.contract.errors import CheckError as CheckError
from normfold.contract.errors import InputError as InputError
from normfold.contract.errors import MissingPackageError as MissingPackageError
from normfold.contract.errors import NormfoldError as NormfoldError
from normfold.contract.errors import SetupError as SetupError
from normfold.contract.errors import WriteError as WriteError
from normfold.export.errors import AdaptationError as AdaptationError
from normfold.export.errors import BundleExportError as BundleExportError
from normfold.export.errors import DamagedFolderError as DamagedFolderError
from normfold.export.errors import DamagedVersionError as DamagedVersionError
from normfold.export.errors import Float16GraphError as Float16GraphError
from normfold.export.errors import Float16OverflowError as Float16OverflowError
from normfold.export.errors import FoldError as FoldError
from normfold.export.errors import ForeignFolderError as ForeignFolderError
from normfold.export.errors import IdenticalSamplesError as IdenticalSamplesError
from normfold.export.errors import ModelFileError as ModelFileError
from normfold.export.errors import ModelInputError as ModelInputError
from normfold.export.errors import NoModelError as NoModelError
from normfold.export.errors import NoRepositoryError as NoRepositoryError
from normfold.export.errors import NotAdaptableError as NotAdaptableError
from normfold.export.errors import PixelError as PixelError
from normfold.export.errors import PrecisionLossError as PrecisionLossError
from normfold.export.errors import QuantizeError as QuantizeError
from normfold.export.errors import ReadError as ReadError
from normfold.export.errors import RepairError as RepairError
from normfold.export.errors import RepositoryError as RepositoryError
from normfold.export.errors import SampleCountError as SampleCountError
from normfold.export.errors import SampleError as SampleError
from normfold.export.errors import SampleStatisticsError as SampleStatisticsError
from normfold.export.errors import TrainingModeError as TrainingModeError
from normfold.export.errors import TritonError as TritonError
from normfold.export.errors import UnfoldError as UnfoldError
from normfold.export.errors import UnknownVersionError as UnknownVersionError
from normfold.export.errors import UnstableSamplesError as UnstableSamplesError
from normfold.export.errors import VerificationError as VerificationError
from normfold.export.errors import VersionChoiceError as VersionChoiceError
from normfold.models.errors import ArchitectureError as ArchitectureError
from normfold.models.errors import CompilationError as CompilationError
from normfold.models.errors import CompilerError as CompilerError
from normfold.models.errors import ConfigFileError as ConfigFileError
from normfold.models.errors import DataError as DataError
from normfold.models.errors import DivergedError as DivergedError
from normfold.models.errors import FreezingError as FreezingError
from normfold.models.errors import FunctionError as FunctionError
from normfold.models.errors import LearningRateError as LearningRateError
from normfold.models.errors import NoRunningStatisticsError as NoRunningStatisticsError
from normfold.models.errors import OnnxExportError as OnnxExportError
from normfold.models.errors import PrecisionError as PrecisionError
from normfold.models.errors import RunFolderError as RunFolderError
from normfold.models.errors import StatisticsError as StatisticsError
from normfold.models.errors import SynchronisationError as SynchronisationError
from normfold.models.errors import TrainModeError as TrainModeError
from normfold.models.errors import UnmeasurableError as UnmeasurableError
from normfold.models.errors import VaryingCallsError as VaryingCallsError
from normfold.models.errors import WeightsError as WeightsError
from normfold.service.errors import DeadlineError as DeadlineError
from normfold.service.errors import FailingTensorsError as FailingTensorsError
from normfold.service.errors import InvalidRequestError as InvalidRequestError
from normfold.service.errors import KeysError as KeysError
from normfold.service.errors import ModelUnavailableError as ModelUnavailableError
from normfold.service.errors import ProviderError as ProviderError
from normfold.service.errors import QueueFullError as QueueFullError
from normfold.service.errors import RequestError as RequestError
from normfold.service.errors import ResponseTooLargeError as ResponseTooLargeError
from normfold.service.errors import RunError as RunError
from normfold.service.errors import ServingError as ServingError
from normfold.service.errors import SettingsError as SettingsError
from normfold.service.errors import UnknownModelError as UnknownModelError
from normfold.service.errors import UnloadedError as UnloadedError
from normfold.service.errors import UnsuitableModelError as UnsuitableModelError
from normfold.service.errors import UnwritableOutputError as UnwritableOutputError

if TYPE_CHECKING:
    from normfold.contract.bundle import DamagedBundleError as DamagedBundleError
    from normfold.contract.drift.monitor import MonitorError as MonitorError
    from normfold.contract.errors import RawInputError as RawInputError
    from normfold.contract.onnxruntime_package import RuntimePackageError as RuntimePackageError
    from normfold.contract.record import ManifestError as ManifestError
    from normfold.contract.tables.table_file import TableFileError as TableFileError

_LAZY = {
    "DamagedBundleError": "bundle",
    "ManifestError": "record",
    "MonitorError": "drift.monitor",
    "RawInputError": "errors",
    "RuntimePackageError": "onnxruntime_package",
    "TableFileError": "tables.table_file",
}
"""Errors in modules of `normfold.contract` that import numpy or pydantic, by the name of the module."""


class ArgumentError(InputError):
    """An argument is wrong, or does not go with another; the sentence names arguments in back quotes.

    The command line, whose options have the same names but for a few, shows them in its own form.
    """

    names_arguments = True


class ClientError(NormfoldError):
    """A request of Client was not answered as it should be."""


class ResponseError(ClientError):
    """The service answered with an error, in its own sentence.

    Attributes:
        status: of HTTP.
        retry_after_s: seconds after which the service says to try again; None if it does not say.
        request_id: under which the service's log has the request.
    """

    def __init__(self, sentence: str, status: int, retry_after_s: float | None, request_id: str | None) -> None:
        super().__init__(sentence)
        self.status, self.retry_after_s, self.request_id = status, retry_after_s, request_id


class UnreachableError(ClientError, SetupError):
    """A service does not answer.

    Attributes:
        url: of the service.
    """

    exit_code = SetupError.exit_code

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"The service at {url} cannot be reached: {reason}")
        self.url = url


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"normfold.contract.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
