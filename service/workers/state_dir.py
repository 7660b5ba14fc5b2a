"""The only folder that the service writes: its repository and the rest of its file system may be read-only.

service.lock   locked while the service runs: two services never share the folder
workers/       the state that its worker processes share; empty at every start
roles.json     the roles of versions that were changed by request (`service.repository.roles`)
drift/         the state of drift monitoring (`service.drift.store`), deleted at the start for versions that are gone
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from normfold.contract.drift.samples import DRIFT_FOLDER
from normfold.service.errors import SettingsError
from normfold.service.file_lock import try_lock

WORKERS = "workers"


@contextmanager
def locked_state_dir(state_dir: Path | None, workers: int, repository: Path) -> Iterator[Path | None]:
    """Prepare the folder for one service, and lock it against others.

    Args:
        state_dir: from the settings; with None and several workers a temporary one, removed at the end.
        workers: number of worker processes.
        repository: folder of models.

    Yields:
        The folder; None for one worker without a state_dir.

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
            _delete_stale(state_dir / DRIFT_FOLDER, repository)
            yield state_dir


def _delete_stale(drift: Path, repository: Path) -> None:
    """Delete the state of versions that are gone: it may hold clients' data, and nothing would read it again."""
    if not repository.is_dir():  # it may be mounted later
        return
    for folder in drift.glob("*/*"):
        if not (repository / folder.relative_to(drift)).is_dir():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _temporary() -> Iterator[Path]:
    try:
        temporary = tempfile.TemporaryDirectory(prefix="normfold-")
    except OSError:
        raise SettingsError(
            "Several workers share state in a folder, and no temporary one can be written; name a folder with "
            "NORMFOLD_STATE_DIR."
        ) from None
    with temporary as folder:
        yield Path(folder)


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = try_lock(state_dir / "service.lock")
    except OSError as error:
        raise SettingsError(f"The state_dir {str(state_dir)!r} cannot be written: {error.strerror}.") from None
    if lock is None:
        raise SettingsError(f"The state_dir {str(state_dir)!r} is in use by another service.")
    with lock:
        yield
