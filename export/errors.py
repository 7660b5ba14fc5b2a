"""Errors between an unfolded model and a bundle, and with bundles in a repository.

NormfoldError (contract)
├── InputError
│   ├── ModelFileError       the file is not an ONNX model that can be read and checked
│   ├── TrainingModeError    every BatchNormalization still learns its statistics
│   ├── ModelInputError      no inputs can be made for the model, or the given ones do not fit
│   ├── PixelError           the model cannot take 8-bit pixels
│   ├── BundleExportError    the bundle cannot be written under this name and version
│   ├── NotAdaptableError    the bundle's statistics cannot be recalibrated from its files
│   ├── UnfoldError          a network cannot be given BatchNormalization nodes again
│   ├── RepairError          BatchNormalization nodes cannot be put into inference mode
│   ├── QuantizeError        the network cannot be quantised from what is there
│   ├── SampleError          the samples cannot be read, or are not what the network takes
│   ├── TritonError          a Triton model cannot be imported, or a configuration for Triton not be written
│   └── RepositoryError      what was asked of a repository cannot be done
│       ├── NoRepositoryError    it is not a folder
│       ├── NoModelError         no model has that name
│       ├── UnknownVersionError  the model has no such version
│       ├── ForeignFolderError   a model's folder is a symbolic link to what is not its own
│       └── VersionChoiceError   these versions are not ones to roll back to, or to delete
├── CheckError
│   ├── FoldError            the folded graph is not valid
│   ├── VerificationError    the folded model does not reproduce the original
│   ├── Float16OverflowError a value exceeds what float16 can hold
│   ├── Float16GraphError    the float16 graph is not valid
│   ├── PrecisionLossError   a network of lower precision is too far from float32, or not faster
│   ├── DamagedVersionError  a version is not what was exported
│   └── AdaptationError      the samples do not allow to recalibrate statistics
│       ├── SampleCountError       they are too few, or too many
│       ├── IdenticalSamplesError  they are all the same
│       ├── UnstableSamplesError   the first half of them is not like the second
│       └── SampleStatisticsError  what they give is not finite
└── SetupError
    ├── ReadError            a folder cannot be read: no permission, a failing disk
    └── WriteError (contract)    the target cannot be written: disk full, no permission
"""

from __future__ import annotations

from pathlib import Path

from normfold.contract.errors import CheckError, InputError, SetupError


class ModelFileError(InputError):
    """The file is not an ONNX model that can be read and checked."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{str(path)!r} {problem}")
        self.path, self.problem = path, problem


class TrainingModeError(InputError):
    """A BatchNormalization still learns its statistics, so there is nothing frozen to fold."""

    def __init__(self, node: str) -> None:
        super().__init__(
            f"BatchNormalization {node!r} is in training mode: it normalises by the batch, not by frozen statistics; "
            "export the network in evaluation mode, or put the file into it with `normfold repair`."
        )
        self.node = node


class ModelInputError(InputError):
    """No inputs can be made for the model, or the given ones do not fit."""


class PixelError(InputError):
    """The model cannot take 8-bit pixels, or nothing says what becomes of them."""

    names_arguments = True


class BundleExportError(InputError):
    """The bundle cannot be written under this name and version."""


class NotAdaptableError(InputError):
    """The bundle's statistics cannot be recalibrated from its files."""

    names_arguments = True


class UnfoldError(InputError):
    """A network cannot be given BatchNormalization nodes again from what is there."""

    names_arguments = True


class RepairError(InputError):
    """BatchNormalization nodes cannot be put into inference mode with what is there."""

    names_arguments = True


class QuantizeError(InputError):
    """The network cannot be quantised from what is there."""

    names_arguments = True


class SampleError(InputError):
    """The samples cannot be read, or are not what the network takes."""

    names_arguments = True


class TritonError(InputError):
    """A model of a Triton repository cannot be imported, or a bundle's configuration for Triton cannot be written."""


class RepositoryError(InputError):
    """A repository cannot do what it was asked for."""


class NoRepositoryError(RepositoryError):
    """The repository is not a folder."""

    names_arguments = True

    def __init__(self, repository: Path) -> None:
        super().__init__(f"There is no folder {str(repository)!r}; name the repository with `repository`.")
        self.repository = repository


class NoModelError(RepositoryError):
    """The repository has no model of that name."""

    def __init__(self, repository: Path, name: str, known: list[str]) -> None:
        there = f"there are {', '.join(known)}" if known else "there are none"
        super().__init__(f"There is no model {name!r} in {str(repository)!r}; {there}.")
        self.repository, self.name, self.known = repository, name, known


class UnknownVersionError(RepositoryError):
    """The model has no such version."""

    def __init__(self, name: str, version: int, known: list[int]) -> None:
        there = f"there are {', '.join(map(str, known))}" if known else "there are none"
        super().__init__(f"There is no version {version} of {name!r}; {there}.")
        self.name, self.version, self.known = name, version, known


class ForeignFolderError(RepositoryError):
    """A model's folder is a symbolic link to what is not its own."""

    def __init__(self, folder: Path, leads_to: str) -> None:
        super().__init__(f"The folder {str(folder)!r} is a symbolic link {leads_to}, and is left alone.")
        self.folder = folder


class VersionChoiceError(RepositoryError):
    """These versions are not ones to roll back to, or to delete."""


class FoldError(CheckError):
    """The folded graph is not valid: a fault of the fold, caught before anything is written, and so exit code 70."""

    exit_code = 70

    def __init__(self, problem: str) -> None:
        super().__init__(f"The folded graph is not valid, nothing was written; please report this: {problem}")
        self.problem = problem


class VerificationError(CheckError):
    """The folded model does not reproduce the original within the network's own rounding noise.

    Where that noise has no bound, nothing is allowed. `channel` is the axis and the index of the one channel that
    exceeds the allowed error most, None where the output as a whole does.
    """

    def __init__(self, output: str, error: float, allowed: float, channel: tuple[int, int] | None = None) -> None:
        if allowed:
            place = "" if channel is None else " at index {1} of axis {0}".format(*channel)
            problem = f"Output {output!r} differs by {error:.3g}{place}, allowed {allowed:.3g}; nothing was written."
        else:
            problem = (
                f"Of output {output!r} nothing can be verified, and nothing was written: the original's own values are "
                "not finite, or have no digit in common with those of a float64 run. `normfold audit` names layers "
                "with numbers that are not finite."
            )
        super().__init__(problem)
        self.output, self.error, self.allowed = output, error, allowed


class Float16OverflowError(CheckError):
    """A value of the network exceeds 65504, the largest float16.

    Attributes:
        node: label of the node that makes the value, or that reads it if it is an input or a weight.
        value: its name.
        magnitude: the largest absolute value that was found.
        basis: on what it was found: "on the inputs", "by its statistics".
    """

    def __init__(self, node: str, value: str, magnitude: float, basis: str, role: str = "makes") -> None:
        super().__init__(
            f"Node {node!r} {role} the value {value!r}, which reaches {magnitude:.6g} {basis}; float16 ends at 65504. "
            "Nothing was written: keep the network in float32."
        )
        self.node, self.value, self.magnitude, self.basis = node, value, magnitude, basis


class Float16GraphError(CheckError):
    """The float16 graph is not valid: a fault of the conversion, caught before anything is written: exit code 70."""

    exit_code = 70

    def __init__(self, problem: str) -> None:
        super().__init__(f"The float16 graph is not valid, nothing was written; please report this: {problem}")
        self.problem = problem


class DamagedVersionError(CheckError):
    """A version is not what was exported."""

    def __init__(self, name: str, version: int, problem: str) -> None:
        super().__init__(f"Version {version} of {name!r} is damaged, and nothing was written: {problem}")
        self.name, self.version, self.problem = name, version, problem


class DamagedFolderError(CheckError):
    """A version's folder that should be copied is not what was exported."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"The version in {str(folder)!r} is damaged, and nothing was written: {problem}")
        self.folder, self.problem = folder, problem


class PrecisionLossError(CheckError):
    """A network of lower precision is too far from the float32 network, or not faster."""

    names_arguments = True

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}. Nothing was written.")
        self.problem = problem


class AdaptationError(CheckError):
    """The samples do not allow to recalibrate statistics; nothing was written."""


class SampleCountError(AdaptationError):
    """The samples are too few, or too many."""

    def __init__(self, count: int, problem: str) -> None:
        super().__init__(f"{count:,} sample{'s are' if count != 1 else ' is'} {problem}; nothing was written.")
        self.count = count


class IdenticalSamplesError(AdaptationError):
    """All samples are the same."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"All {count:,} samples are the same; statistics cannot be estimated from them. Nothing was written."
        )


class UnstableSamplesError(AdaptationError):
    """The first half of the samples is not like the second."""

    def __init__(self, node: str, what: str, gap: float, z: float) -> None:
        super().__init__(
            f"The first half of the samples is not like the second: at BatchNormalization {node!r} their {what}, "
            f"z-score {z:.0f}. Either the inputs were still changing, or the samples are sorted; give samples from one "
            "distribution (one camera, one light), in the order in which they came. Nothing was written."
        )
        self.node, self.gap, self.z = node, gap, z


class SampleStatisticsError(AdaptationError):
    """The statistics of the samples are not finite."""

    def __init__(self, node: str) -> None:
        super().__init__(
            f"The samples drive BatchNormalization {node!r} beyond what its numbers can hold; nothing was written."
        )
        self.node = node


class ReadError(SetupError):
    """A folder cannot be read."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"Cannot read {str(path)!r}: {reason}.")
        self.path, self.reason = path, reason
