"""Base classes of the errors that Normfold raises, with the exit codes of the command line.

    NormfoldError
    ├── InputError                  wrong use or wrong input                    exit code 2
    │   └── RawInputError           an image, row or sequence does not fit the preprocessing
    ├── CheckError                  a check failed                              exit code 1
    └── SetupError                  the environment lacks something             exit code 3
        ├── MissingPackageError     an optional package is not installed
        └── WriteError              a file or folder cannot be written

Every package subclasses these in its own `errors.py`; `normfold.errors` draws the whole tree. An error carries its
facts as attributes; its message is one sentence that says what is wrong and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from normfold.contract.install import how_to_install


class NormfoldError(Exception):
    """A failure that the user can act on; `exit_code` is that of the command line."""

    exit_code = 2

    names_arguments: ClassVar[bool] = False
    """Whether the sentence names arguments of the Python API, in back quotes."""

    def on_command_line(self, others: Mapping[str, str]) -> str:
        """Return the sentence with options for the arguments that it names, --keep-statistics for `keep_statistics`.

        Args:
            others: argument to its option, where that is not named like it.
        """
        return with_options(str(self), others) if self.names_arguments else str(self)


def with_options(sentence: str, others: Mapping[str, str]) -> str:
    """Return a sentence with options for the arguments of the Python API that it names in back quotes.

    Args:
        sentence: for example "Running statistics as they are: `keep_statistics`."
        others: argument to its option, where that is not named like it.
    """

    def option(found: re.Match[str]) -> str:
        return others.get(found[1], "--" + found[1].replace("_", "-"))

    return re.sub("`([a-z][a-z0-9_]*)`", option, sentence)


class InputError(NormfoldError):
    """A file, a name, a shape or an option that the user gave cannot be used."""

    exit_code = 2


class RawInputError(InputError):
    """A raw input, an image, row or sequence, does not fit the network's preprocessing."""


class CheckError(NormfoldError):
    """The input is valid, and a check on it failed."""

    exit_code = 1


class SetupError(NormfoldError):
    """The environment lacks a package, an execution provider, a port or disk space."""

    exit_code = 3


class MissingPackageError(SetupError):
    """A package that a command needs is not installed; it comes with an extra of Normfold."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs the package {package!r}; install it {how_to_install(extra)}")
        self.package, self.extra, self.needed_for = package, extra, needed_for


class WriteError(SetupError):
    """A file or folder cannot be written: the disk is full, or a permission is missing."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"Cannot write {str(path)!r}: {reason}.")
        self.path, self.reason = path, reason


def first_line(error: BaseException, default: str | None = None) -> str:
    """Return the first line of an exception's message.

    Args:
        error: any exception, also of other libraries.
        default: returned for an empty message; None is the name of the exception's class.
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else default or type(error).__name__
