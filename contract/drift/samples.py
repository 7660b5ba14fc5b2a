"""Files of recent inputs: a service stores them as the network gets them, and `normfold adapt` reads them.

    STATE/drift/NAME/VERSION/SHA/PROCESS.samples     SHA: first 16 digits of the sha256 of the version's monitor.onnx

A file is a zip archive of .npy files: `times`, (rows,) float64, seconds since 1970, and for each input `inputs/INPUT`,
(rows, …), in ascending order of time.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from normfold.contract.arrays import Array
from normfold.contract.drift.monitor import MONITOR_NAME
from normfold.contract.manifest import Manifest

DRIFT_FOLDER = "drift"
SAMPLES_SUFFIX = ".samples"

_TIMES, _INPUTS = "times", "inputs/"


@dataclass(frozen=True, eq=False)
class StoredSample:
    """One row of every input."""

    time: float
    """Time of its arrival, in seconds since 1970."""
    tensors: Mapping[str, Array]
    """By input, without the batch axis."""


def drift_folder(state_dir: Path, manifest: Manifest) -> Path:
    """Return the folder of a version's drift statistics and samples.

    Args:
        state_dir: state folder of the service.
        manifest: of the version; it lists a monitor.onnx.
    """
    return state_dir / DRIFT_FOLDER / manifest.name / str(manifest.version) / manifest.files[MONITOR_NAME][:16]


def newest_samples(rows: Iterable[StoredSample], count: int) -> list[StoredSample]:
    """Return the `count` newest of some rows, in ascending order of time."""
    return sorted(rows, key=lambda row: row.time)[-count:]


def stack_samples(rows: Sequence[StoredSample]) -> tuple[list[StoredSample], dict[str, Array]]:
    """Return the rows of the same shapes as the last one, and their tensors with a batch axis, by input."""
    shapes = {name: array.shape for name, array in rows[-1].tensors.items()} if rows else {}
    stackable = [row for row in rows if {name: array.shape for name, array in row.tensors.items()} == shapes]
    return stackable, {name: np.stack([row.tensors[name] for row in stackable]) for name in shapes}


def write_archive(file: IO[bytes], arrays: Mapping[str, Array]) -> None:
    """Write an .npz file; numpy.savez cannot write an array that is called "file"."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def write_stored_samples(path: Path, rows: Sequence[StoredSample]) -> None:
    """Replace a file of samples; only its owner may read it, since the samples are users' data.

    Raises:
        OSError: the file cannot be written.
    """
    stackable, tensors = stack_samples(rows)
    times = np.array([row.time for row in stackable], np.float64)
    temporary = path.with_suffix(".new-samples")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        write_archive(file, {_TIMES: times} | {f"{_INPUTS}{name}": array for name, array in tensors.items()})
    temporary.replace(path)


def read_stored_samples(path: Path) -> list[StoredSample]:
    """Return the rows of a file of samples, or an empty list if the file is missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            times = arrays[_TIMES]
            inputs = {name.removeprefix(_INPUTS): arrays[name] for name in arrays.files if name.startswith(_INPUTS)}
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile):
        return []
    if times.dtype != np.float64 or times.ndim != 1 or any(array.shape[:1] != times.shape for array in inputs.values()):
        return []
    return [
        StoredSample(float(time), {name: array[row] for name, array in inputs.items()})
        for row, time in enumerate(times)
    ]
