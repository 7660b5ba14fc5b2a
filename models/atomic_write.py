"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

STATE_PATH = Path("resume") / "state.safetensors"
"""In a run folder: from what a run can be resumed. Here, so that it can be looked for without importing torch."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write under a temporary name, flush to disk, then rename: an interruption leaves the old file or the new one.

    Raises:
        OSError: the folder is missing or cannot be written, or the disk is full; it names `path`, and no temporary file
            stays behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_temporaries(path: Path) -> None:
    """Remove what `write_atomically` left of this file in processes that were killed."""
    if not path.parent.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(path.name)}\.\d+\.tmp")
    for entry in path.parent.iterdir():
        if pattern.fullmatch(entry.name):
            entry.unlink(missing_ok=True)
