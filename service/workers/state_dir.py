"""The one folder that the service writes: its repository and the rest of its file system may be read-only.

service.lock   held while it runs: two services never share the folder
workers/       what its worker processes tell each other; begun anew at every start
shift/         what was seen of inputs (`service.drift.store`); that of versions which are gone is deleted at the start
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from normfold.contract.samples import DRIFT_FOLDER
from normfold.service.errors import SettingsError

WORKERS = "workers"


@contextmanager
def prepared_state(state_dir: Path | None, workers: int, repository: Path) -> Iterator[Path | None]:
    """Make the folder ready for one service, and lock out others.

    Args:
        state_dir: what the operator named; with None and several workers a temporary one is made, and removed in the
            end.
        workers: processes that serve.
        repository: what they serve.

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
            _forget_gone(state_dir / DRIFT_FOLDER, repository)
            yield state_dir


def _forget_gone(shift: Path, repository: Path) -> None:
    """Delete what was seen of versions that are gone: it may hold people's inputs, and nobody would read it again."""
    if not repository.is_dir():  # it may come back
        return
    for folder in shift.glob("*/*"):
        if not (repository / folder.relative_to(shift)).is_dir():
            shutil.rmtree(folder, ignore_errors=True)


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
