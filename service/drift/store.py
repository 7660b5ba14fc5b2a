"""What was seen of inputs, kept over a restart and shared among worker processes: one small file a process.

    STATE/drift/NAME/VERSION/SHA/PROCESS.npz     sums, replaced whole

SHA is of monitor.onnx: another network of the same version number begins anew.
"""

from __future__ import annotations

import logging
import threading
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from normfold.contract.monitor import Monitor
from normfold.service.drift.sample_buffer import SampleBuffer
from normfold.service.drift.score import LayerSums, Sums
from normfold.service.workers.process_files import ProcessFiles

logger = logging.getLogger(__name__)

_SUMS = ".npz"


class DriftStore:
    """The sums of one version, as one process uses them. `save` may be called from any thread.

    Args:
        files: of this process and the others.
        monitor: what the sums are of.
    """

    def __init__(self, files: ProcessFiles, monitor: Monitor) -> None:
        self._files, self._monitor = files, monitor
        self._saving = threading.Lock()
        self._has_failed = self._is_closed = False

    def adopt(self, reservoir: SampleBuffer | None = None) -> Sums:
        """Return the sums of processes that ended, which are this one's from now on.

        Args:
            reservoir: gets the inputs that they kept; None: those are deleted.
        """
        sums = Sums.of(self._monitor)

        def take(stem: Path) -> bool:
            try:
                found = read_sums(stem.with_suffix(_SUMS), self._monitor)
            except OSError:
                return False  # it may be readable for the next one
            if found is not None:
                sums.add(found)
            if reservoir is not None:
                reservoir.take(stem)
            return True

        def keep() -> None:
            self.save(sums)
            if reservoir is not None:
                reservoir.save()

        try:
            self._files.adopt(take, keep)
        except OSError as error:
            self._say(error)
        return sums

    def others(self) -> list[Sums]:
        """Return what the other processes have seen, as they last wrote it down."""
        found = []
        for path in self._files.others(_SUMS):
            with suppress(OSError):
                found.append(read_sums(path, self._monitor))
        return [sums for sums in found if sums is not None]

    def save(self, sums: Sums) -> None:
        """Write the sums down; nothing once it is closed."""
        arrays = {
            "weights": np.array([sums.weight, sums.weight_of_squares]),
            "counts": np.array([sums.rows, sums.rows_not_finite]),
            **{f"means{place}": layer.means for place, layer in enumerate(sums.layers)},
            **{f"squares{place}": layer.squares for place, layer in enumerate(sums.layers)},
        }
        aside = self._files.own(".new")
        with self._saving:
            if self._is_closed:
                return
            try:
                with aside.open("wb") as file:
                    np.savez(file, allow_pickle=False, **arrays)
                aside.replace(self._files.own(_SUMS))
            except OSError as error:
                self._say(error)

    def close(self) -> None:
        """Leave the sums to whoever comes next."""
        with self._saving:
            self._is_closed = True
        self._files.close()

    def _say(self, error: OSError) -> None:
        """Say once that nothing is kept."""
        if not self._has_failed:
            self._has_failed = True
            logger.error("What is seen of inputs cannot be kept in %s: %s.", self._files.folder, error.strerror)


def read_sums(path: Path, monitor: Monitor) -> Sums | None:
    """Return what a file holds; None if it is gone, damaged, or of another monitor.

    Raises:
        OSError: it is there, and cannot be read now.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            weight, squares = (float(value) for value in arrays["weights"])
            rows, rows_not_finite = (int(value) for value in arrays["counts"])
            layers = [
                LayerSums(arrays[f"means{place}"], arrays[f"squares{place}"]) for place in range(len(monitor.layers))
            ]
    except (FileNotFoundError, ValueError, KeyError, EOFError, TypeError, OverflowError, zipfile.BadZipFile):
        return None
    sizes = [len(layer.variances) for layer in monitor.layers]
    values = [one for layer in layers for one in (layer.means, layer.squares)]
    fit = all(one.means.shape == one.squares.shape == (size,) for one, size in zip(layers, sizes, strict=True))
    if not fit or any(value.dtype != np.float64 or not np.isfinite(value).all() for value in values):
        return None
    if not 0 <= squares <= weight < np.inf or min(rows, rows_not_finite) < 0:
        return None
    return Sums(layers, weight, squares, rows, rows_not_finite)
