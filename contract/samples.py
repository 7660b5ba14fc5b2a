"""Inputs that a service kept for `normfold adapt`, as the network takes them, and where.

    STATE/drift/NAME/VERSION/SHA/PROCESS.samples     SHA: of the version's monitor.onnx, 16 digits

A file is a zip of .npy: `times`, seconds since 1970, (rows,) float64, and `inputs/INPUT`, rows first, the oldest first.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from normfold.contract.manifest import Manifest
from normfold.contract.monitor import MONITOR_NAME

DRIFT_FOLDER = "drift"
KEPT_SUFFIX = ".samples"

_TIMES, _INPUTS = "times", "inputs/"

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class KeptRow:
    """One row of each input, without an axis of rows, and when it came: seconds since 1970."""

    time: float
    tensors: Mapping[str, Array]


def drift_folder(state_dir: Path, manifest: Manifest) -> Path:
    """Return the folder of a service's state of drift monitoring of a version, whose manifest lists a monitor.onnx."""
    return state_dir / DRIFT_FOLDER / manifest.name / str(manifest.version) / manifest.files[MONITOR_NAME][:16]


def newest(rows: Iterable[KeptRow], most: int) -> list[KeptRow]:
    """Return the newest of some rows, those that came first before the others."""
    return sorted(rows, key=lambda row: row.time)[-most:]


def stacked(rows: Sequence[KeptRow]) -> tuple[list[KeptRow], dict[str, Array]]:
    """Return the rows that have the shapes of the last one, and their tensors: one array cannot hold others."""
    shapes = {name: array.shape for name, array in rows[-1].tensors.items()} if rows else {}
    alike = [row for row in rows if {name: array.shape for name, array in row.tensors.items()} == shapes]
    return alike, {name: np.stack([row.tensors[name] for row in alike]) for name in shapes}


def write_archive(file: IO[bytes], arrays: Mapping[str, Array]) -> None:
    """Write an .npz; numpy.savez cannot, where an array is called "file"."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def write_kept(path: Path, rows: Sequence[KeptRow]) -> None:
    """Replace a file, readable for its owner alone: these are people's own data.

    Raises:
        OSError: it cannot be written.
    """
    alike, tensors = stacked(rows)
    times = np.array([row.time for row in alike], np.float64)
    aside = path.with_suffix(".new-samples")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        write_archive(file, {_TIMES: times} | {f"{_INPUTS}{name}": array for name, array in tensors.items()})
    aside.replace(path)


def read_kept(path: Path) -> list[KeptRow]:
    """Return the rows of a file; none if it is gone or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            times = arrays[_TIMES]
            given = {name.removeprefix(_INPUTS): arrays[name] for name in arrays.files if name.startswith(_INPUTS)}
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile):
        return []
    if times.dtype != np.float64 or times.ndim != 1 or any(array.shape[:1] != times.shape for array in given.values()):
        return []
    return [
        KeptRow(float(time), {name: array[place] for name, array in given.items()}) for place, time in enumerate(times)
    ]
