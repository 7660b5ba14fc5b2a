"""What was seen of inputs, kept over a restart and shared among worker processes: one small file a process.

    STATE/shift/NAME/VERSION/SHA/PID-N.npz     sums, replaced whole
    STATE/shift/NAME/VERSION/SHA/PID-N.lock    held by the process for as long as it adds to them

SHA is of monitor.onnx: another network of the same version number begins anew. Sums whose lock nobody holds are those
of a process that ended; the next one to begin adds them to its own, and goes on from there.
"""

from __future__ import annotations

import fcntl
import logging
import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import IO

import numpy as np

from contract.monitor import Monitor
from service.shift import LayerSums, Sums

logger = logging.getLogger(__name__)

SHIFT = "shift"

_numbers = count()


class ShiftStore:
    """The files of one version, as one process uses them.

    Args:
        folder: of this version's monitor; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = folder / f"{os.getpid()}-{next(_numbers)}.npz"
        self._lock: IO[bytes] | None = None
        self._failed = False

    @property
    def path(self) -> Path:
        """This process's own file."""
        return self._own

    def adopt(self, monitor: Monitor) -> Sums:
        """Return the sums of processes that ended, which are this one's from now on."""
        sums = Sums.of(monitor)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._own.with_suffix(".lock").open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            for path, lock in self._left_behind():
                if (found := read_sums(path, monitor)) is not None:
                    sums.add(found)
                path.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
        except OSError as error:
            self._say(error)
        self.save(sums)
        return sums

    def others(self, monitor: Monitor) -> list[Sums]:
        """Return what the other processes have seen, as they last wrote it down."""
        found = [read_sums(path, monitor) for path in self._folder.glob("*.npz") if path != self._own]
        return [sums for sums in found if sums is not None]

    def save(self, sums: Sums) -> None:
        """Write the sums down."""
        arrays = {
            "rows": np.array([sums.weight, sums.weight_of_squares, sums.rows]),
            **{f"means{place}": layer.means for place, layer in enumerate(sums.layers)},
            **{f"squares{place}": layer.squares for place, layer in enumerate(sums.layers)},
        }
        aside = self._own.with_suffix(".new")
        try:
            with aside.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            aside.replace(self._own)
        except OSError as error:
            self._say(error)

    def close(self) -> None:
        """Leave the sums to whoever comes next."""
        if self._lock is not None:
            self._lock.close()

    def _left_behind(self) -> Iterator[tuple[Path, Path]]:
        """Yield the files of processes that ended, each while its lock is held here."""
        for path in sorted(self._folder.glob("*.npz")):
            lock = path.with_suffix(".lock")
            if path == self._own:
                continue
            with suppress(OSError), lock.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists():  # another has not been faster
                    yield path, lock

    def _say(self, error: OSError) -> None:
        """Say once that nothing is kept."""
        if not self._failed:
            self._failed = True
            logger.error("What is seen of inputs cannot be kept in %s: %s.", self._folder, error.strerror)


def read_sums(path: Path, monitor: Monitor) -> Sums | None:
    """Return what a file holds; None if it is gone, damaged, or of another monitor."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            weight, squares, rows = arrays["rows"]
            layers = [
                LayerSums(arrays[f"means{place}"], arrays[f"squares{place}"]) for place in range(len(monitor.layers))
            ]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    sizes = [len(layer.variances) for layer in monitor.layers]
    if not all(np.isfinite(one).all() for layer in layers for one in (layer.means, layer.squares)):
        return None
    fit = all(one.means.shape == one.squares.shape == (size,) for one, size in zip(layers, sizes, strict=True))
    return Sums(layers, float(weight), float(squares), int(rows)) if fit else None
