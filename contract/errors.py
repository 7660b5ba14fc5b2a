"""The root of every error that Normfold raises on purpose.

    NormfoldError
    ├── InputError          wrong use or wrong input             exit code 2
    ├── CheckError          a check said no                      exit code 1
    └── SetupError          the machine is not set up for it     exit code 3
        ├── MissingPackageError     an extra is not installed
        └── WriteError              a file or folder cannot be written

Each package subclasses these in its own `errors.py`; `normfold.errors` draws the whole tree. The command line turns
the kind into an exit code. An error carries its facts as attributes and says in one sentence what is wrong and what to
do.
"""

from __future__ import annotations

from pathlib import Path

from normfold.contract.install import how_to_install


class NormfoldError(Exception):
    """Any failure that a user can understand and act on."""

    exit_code = 2


class InputError(NormfoldError):
    """What the user gave cannot be used: a file, a name, a shape, an option."""

    exit_code = 2


class CheckError(NormfoldError):
    """The input was understood, and a check on it said no."""

    exit_code = 1


class SetupError(NormfoldError):
    """The machine lacks something: a package, a provider, a port, disk space."""

    exit_code = 3


class MissingPackageError(SetupError):
    """A command needs packages that come with an extra which is not installed."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs the package {package!r}; install it {how_to_install(extra)}")
        self.package, self.extra, self.needed_for = package, extra, needed_for


class WriteError(SetupError):
    """A file or folder cannot be written: the disk is full, or a permission is missing."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"Cannot write {str(path)!r}: {reason}.")
        self.path, self.reason = path, reason
