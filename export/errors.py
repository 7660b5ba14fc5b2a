"""What can go wrong between an unfolded model and a bundle.

NormfoldError (contract)
├── InputError
│   ├── ModelFileError       the file is no ONNX model that can be read and checked
│   ├── TrainingModeError    a BatchNormalization still learns its statistics
│   ├── FeedError            no inputs can be made for the model, or the given ones do not fit
│   ├── PixelError           the model cannot take 8-bit pixels
│   └── BundleError          the bundle cannot be written under this name and version
├── CheckError
│   ├── FoldError            the folded graph is not valid
│   └── VerificationError    the folded model does not reproduce the original
└── SetupError
    └── WriteError           the target cannot be written: disk full, no permission
"""

from __future__ import annotations

from pathlib import Path

from contract.errors import CheckError, InputError, SetupError


class ModelFileError(InputError):
    """The file is no ONNX model that can be read and checked."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{str(path)!r} {problem}")
        self.path, self.problem = path, problem


class TrainingModeError(InputError):
    """A BatchNormalization still learns its statistics, so there is nothing frozen to fold."""

    def __init__(self, node: str) -> None:
        super().__init__(
            f"BatchNormalization {node!r} is in training mode: it normalises by the batch, not by frozen statistics; "
            "export the network in evaluation mode."
        )
        self.node = node


class FeedError(InputError):
    """No inputs can be made for the model, or the given ones do not fit."""


class PixelError(InputError):
    """The model cannot take 8-bit pixels, or nothing says what becomes of them."""


class BundleError(InputError):
    """The bundle cannot be written under this name and version."""


class FoldError(CheckError):
    """The folded graph is not valid: a fault of the fold, caught before anything is written, and so exit code 70."""

    exit_code = 70

    def __init__(self, problem: str) -> None:
        super().__init__(f"The folded graph is not valid, nothing was written; please report this: {problem}")
        self.problem = problem


class VerificationError(CheckError):
    """The folded model does not reproduce the original within the network's own rounding noise."""

    def __init__(self, output: str, error: float, allowed: float) -> None:
        super().__init__(f"Output {output!r} differs by {error:.3g}, allowed {allowed:.3g}; nothing was written.")
        self.output, self.error, self.allowed = output, error, allowed


class WriteError(SetupError):
    """The target cannot be written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"Cannot write {str(path)!r}: {reason}.")
        self.path, self.reason = path, reason
