"""The rule for commands that write an ONNX file: what they read is not overwritten, unless that is asked for."""

from __future__ import annotations

from pathlib import Path

from normfold._shared.paths import AnyPath
from normfold.errors import ArgumentError


def is_same_file(first: AnyPath, second: AnyPath) -> bool:
    """Return whether two paths lead to one file that exists: by another spelling, a symbolic link or a hard link."""
    try:
        return Path(first).samefile(second)
    except OSError:
        return False


def require_other_file(target: AnyPath, *read: AnyPath | None, force: bool) -> None:
    """Check that a command does not write over a file that it reads.

    Args:
        target: the file to write.
        read: the files that are read; those that are not given are None.
        force: it may be overwritten.

    Raises:
        ArgumentError: it would be, and `force` is not given.
    """
    source = next((path for path in read if path is not None and is_same_file(path, target)), None)
    if source is None or force:
        return
    link = "" if str(source) == str(target) else f", by another name {str(source)!r}"
    raise ArgumentError(
        f"{str(target)!r} is read{link}, and would be overwritten: name another file to write, or give `force`."
    )
