"""What a training run leaves behind when it ends before its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from normfold.contract.atomic_write import remove_temporaries
from normfold.models.errors import RunFolderError
from normfold.models.training.checkpoint import CONFIG_NAME, WEIGHTS_NAME
from normfold.models.training.config import STATE_PATH
from normfold.models.training.curves import CURVES_NAME
from normfold.models.training.metrics import METRICS_NAME

FILES = (*map(Path, (WEIGHTS_NAME, CONFIG_NAME, METRICS_NAME, CURVES_NAME)), STATE_PATH)


def refuse_existing_run(folder: Path) -> None:
    """Make sure that a new run overwrites nothing.

    Raises:
        RunFolderError: the folder holds a run, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(folder, "is a file; give another --out.")
    # A run that ended before its first checkpoint may be begun anew.
    if any((folder / name).exists() for name in (WEIGHTS_NAME, CONFIG_NAME)):
        raise RunFolderError(folder, "holds a run already; go on with it by --resume, or give another --out.")


@contextmanager
def whole_or_nothing(folder: Path, *, new: bool) -> Iterator[None]:
    """Remove what a new run wrote if it fails before its first checkpoint, so that a second try finds a clean place.

    A run that is interrupted, rather than fails, keeps the state from which it can be resumed. On entering, files that
    a killed run left half-written are removed.

    Args:
        folder: the run's; it need not exist.
        new: False for a run that is resumed, of which nothing is removed.
    """
    for file in FILES:
        remove_temporaries(folder / file)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except BaseException as error:
        interrupted = not isinstance(error, Exception) and (folder / STATE_PATH).exists()
        has_checkpoint = (folder / WEIGHTS_NAME).exists() and (folder / CONFIG_NAME).exists()
        if new and not interrupted and not has_checkpoint:
            _remove(folder, made)
        raise


def _remove(folder: Path, made: list[Path]) -> None:
    """Remove a run's files, and then the folders that were made for it and are empty."""
    for file in FILES:
        with suppress(OSError):  # the error that led here says more
            (folder / file).unlink(missing_ok=True)
    for place in ((folder / STATE_PATH).parent, *made):
        with suppress(OSError):  # not empty, or never made
            place.rmdir()
