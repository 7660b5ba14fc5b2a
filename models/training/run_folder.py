"""Checks and clean-up of a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from normfold.contract.atomic_write import remove_temporaries
from normfold.models.errors import RunFolderError
from normfold.models.statistics.epochs import PLOT_NAME, STATISTICS_NAME
from normfold.models.training.checkpoint import CONFIG_NAME
from normfold.models.training.config import STATE_PATH
from normfold.models.training.curves import CONFUSION_NAME, CURVES_NAME
from normfold.models.training.metrics import METRICS_NAME
from normfold.models.weight_files.load import WEIGHTS_NAME

FILES = (
    *map(Path, (WEIGHTS_NAME, CONFIG_NAME, METRICS_NAME, CURVES_NAME, CONFUSION_NAME)),
    *map(Path, (STATISTICS_NAME, PLOT_NAME)),
    STATE_PATH,
)


def check_no_run(folder: Path) -> None:
    """Check that a new run overwrites no other.

    Raises:
        RunFolderError: the folder holds a run, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(folder, "is a file; give another `out`.")
    # A run that ended before its first checkpoint may be overwritten.
    if any((folder / name).exists() for name in (WEIGHTS_NAME, CONFIG_NAME)):
        raise RunFolderError(folder, "holds a run already; resume it with `resume`, or give another `out`.")


@contextmanager
def remove_failed_run(folder: Path, *, new: bool) -> Iterator[None]:
    """Remove the files of a new run if the block raises before the first checkpoint, so that it can be started again.

    A run that is interrupted (KeyboardInterrupt) keeps the state from which it can be resumed. On entering, temporary
    files of a killed run are removed.

    Args:
        folder: run folder; it need not exist.
        new: False for a run that is resumed, whose files are not removed.
    """
    for file in FILES:
        remove_temporaries(folder / file)
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        yield
    except BaseException as error:
        interrupted = not isinstance(error, Exception) and (folder / STATE_PATH).exists()
        has_checkpoint = (folder / WEIGHTS_NAME).exists() and (folder / CONFIG_NAME).exists()
        if new and not interrupted and not has_checkpoint:
            _remove(folder, created)
        raise


def _remove(folder: Path, created: list[Path]) -> None:
    """Remove a run's files, and then those of the folders created for it that are empty."""
    for file in FILES:
        with suppress(OSError):  # the error that is being raised matters more
            (folder / file).unlink(missing_ok=True)
    for empty in ((folder / STATE_PATH).parent, *created):
        with suppress(OSError):  # not empty, or not created
            empty.rmdir()
