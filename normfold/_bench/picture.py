"""The picture of a result: latency over load, as a file."""

from __future__ import annotations

from pathlib import Path

from normfold._bench.result import BenchResult
from normfold._shared.argument_checks import PATH, check
from normfold._shared.packages import require_packages
from normfold._shared.paths import AnyPath
from normfold.contract.atomic_write import os_errors_as_write_errors, write_atomically
from normfold.errors import ArgumentError

SUFFIXES = (".png", ".svg")


def check_picture(path: AnyPath) -> Path:
    """Return the path of a picture that can be drawn: to be called before the load, which may take minutes.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ArgumentError: the path ends with neither .png nor .svg, or its folder does not exist.
    """
    check(PATH, picture=path)
    picture = Path(path)
    if picture.suffix.lower() not in SUFFIXES:
        raise ArgumentError(f"`picture` {str(path)!r} must end with {' or '.join(SUFFIXES)}.")
    if not picture.parent.is_dir() or picture.is_dir():
        raise ArgumentError(f"`picture` {str(path)!r} cannot be written: its folder does not exist, or it is a folder.")
    require_packages("matplotlib", extra="plots", needed_for="a picture of latency over load")
    return picture


def write_picture(result: BenchResult, path: Path) -> None:
    """Draw latency over load.

    Raises:
        WriteError: the file cannot be written.
    """
    from normfold.display.plots.latency import draw_latency

    data = draw_latency(result, path.suffix.lower().removeprefix("."))
    with os_errors_as_write_errors(path):
        write_atomically(path, data)
