"""The one folder that the service writes: its repository and the rest of its file system may be read-only.

service.lock   held while it runs: two services never share the folder
workers/       what its worker processes tell each other; begun anew at every start
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import SettingsError

WORKERS = "workers"


@contextmanager
def prepared_state(state_dir: Path | None, workers: int) -> Iterator[Path | None]:
    """Make the folder ready for one service, and lock out others.

    Args:
        state_dir: what the operator named; with None and several workers a temporary one is made, and removed in the
            end.
        workers: processes that serve.

    Raises:
        SettingsError: it cannot be written, or another service uses it.
    """
    if state_dir is None and workers == 1:
        yield None
    elif state_dir is None:
        with _temporary() as folder:
            (folder / WORKERS).mkdir()
            yield folder
    else:
        with _locked(state_dir):
            shutil.rmtree(state_dir / WORKERS, ignore_errors=True)
            (state_dir / WORKERS).mkdir()
            yield state_dir


@contextmanager
def _temporary() -> Iterator[Path]:
    try:
        made = tempfile.TemporaryDirectory(prefix="normfold-")
    except OSError:
        raise SettingsError(
            "Several workers need a folder to meet in, and no temporary one can be written; name one with "
            "NORMFOLD_STATE_DIR."
        ) from None
    with made as folder:
        yield Path(folder)


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = (state_dir / "service.lock").open("wb")
    except OSError as error:
        raise SettingsError(f"The state_dir {str(state_dir)!r} cannot be written: {error.strerror}.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(f"The state_dir {str(state_dir)!r} is in use by another service.") from None
        yield
