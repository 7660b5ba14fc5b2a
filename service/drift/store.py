"""The sums of drift monitoring on disk: kept over a restart, shared among worker processes, one file a process.

    STATE/drift/NAME/VERSION/SHA/PROCESS.npz     sums, replaced whole

SHA is that of monitor.onnx: another network with the same version number starts with empty sums.
"""

from __future__ import annotations

import logging
import threading
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from normfold.contract.drift.monitor import Monitor
from normfold.service.drift.process_files import ProcessFiles
from normfold.service.drift.sample_buffer import SampleBuffer
from normfold.service.drift.score import LayerSums, WindowSums

logger = logging.getLogger(__name__)

_SUMS = ".npz"


class DriftStore:
    """The files of the sums of one version. `save` may be called from any thread.

    Args:
        files: of this process and the others.
        monitor: its layers have the sums.
    """

    def __init__(self, files: ProcessFiles, monitor: Monitor) -> None:
        self._files, self._monitor = files, monitor
        self._saving = threading.Lock()
        self._has_failed = self._is_closed = False

    def adopt(self, samples: SampleBuffer | None = None) -> WindowSums:
        """Return the sums of the processes that have ended, and delete their files.

        Args:
            samples: gets the inputs that they kept; None: these are deleted.
        """
        sums = WindowSums.of(self._monitor)

        def read(stem: Path) -> bool:
            try:
                found = read_sums(stem.with_suffix(_SUMS), self._monitor)
            except OSError:
                return False  # the next process may be able to read it
            if found is not None:
                sums.add(found)
            if samples is not None:
                samples.adopt(stem)
            return True

        def save_all() -> None:
            self.save(sums)
            if samples is not None:
                samples.save()

        try:
            self._files.adopt(read, save_all)
        except OSError as error:
            self._log_once(error)
        return sums

    def read_others(self) -> list[WindowSums]:
        """Return the sums of the other processes, as they last saved them."""
        found = []
        for path in self._files.others(_SUMS):
            with suppress(OSError):
                found.append(read_sums(path, self._monitor))
        return [sums for sums in found if sums is not None]

    def save(self, sums: WindowSums) -> None:
        """Write the sums to this process's file; nothing after `close`. An error is logged once."""
        arrays = {
            "weights": np.array([sums.weight, sums.weight_of_squares]),
            "counts": np.array([sums.rows, sums.rows_not_finite]),
            **{f"means{place}": layer.means for place, layer in enumerate(sums.layers)},
            **{f"squares{place}": layer.squares for place, layer in enumerate(sums.layers)},
        }
        temporary = self._files.own(".new")
        with self._saving:
            if self._is_closed:
                return
            try:
                with temporary.open("wb") as file:
                    np.savez(file, allow_pickle=False, **arrays)
                temporary.replace(self._files.own(_SUMS))
            except OSError as error:
                self._log_once(error)

    def close(self) -> None:
        """Release the files: the next process may adopt them."""
        with self._saving:
            self._is_closed = True
        self._files.close()

    def _log_once(self, error: OSError) -> None:
        """Log an error of writing, the first time only."""
        if not self._has_failed:
            self._has_failed = True
            logger.error("The state of drift monitoring cannot be saved in %s: %s.", self._files.folder, error.strerror)


def read_sums(path: Path, monitor: Monitor) -> WindowSums | None:
    """Return the sums of a file; None if it is missing, damaged, or of another monitor.

    Raises:
        OSError: the file exists and cannot be read.
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
    return WindowSums(layers, weight, squares, rows, rows_not_finite)
