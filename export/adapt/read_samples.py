"""Read unlabelled samples to recalibrate statistics from: a folder of images, a table, or arrays.

    FOLDER   PNG and JPEG files, in the order of their names, decoded and standardised as the bundle's card says
    .csv, .tsv, .parquet
             rows with a header; columns that the card does not name, such as labels, are ignored
    .npz     `x`, raw inputs as training data have them; or an array for each input of the network, tensors as it takes
             them; any further array, such as `y`, is ignored
    STATE    the state folder of a service that keeps recent inputs: those of this version, of all its processes

The network is the unfolded one: where the bundle takes pixels, it takes them standardised.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx_ir as ir

from normfold.contract.drift.flush_request import request_flush
from normfold.contract.drift.monitor import MONITOR_NAME
from normfold.contract.drift.samples import (
    SAMPLES_SUFFIX,
    drift_folder,
    newest_samples,
    read_stored_samples,
    stack_samples,
)
from normfold.contract.errors import RawInputError
from normfold.contract.manifest import Manifest
from normfold.contract.preprocess import ImagePreprocessing, Preprocessing
from normfold.contract.tables.table_file import SUFFIXES
from normfold.export.adapt.samples import (
    RAW,
    SampleFormat,
    Samples,
    as_pixels,
    raw_samples,
    tensor_samples,
)
from normfold.export.adapt.table_samples import table_samples
from normfold.export.arrays import Tensor
from normfold.export.errors import SampleError
from normfold.export.verify.inputs import read_arrays
from normfold.export.verify.runner import Inputs, ValueInfo, input_infos

_PICTURES = (".png", ".jpg", ".jpeg")


def read_samples(path: Path, expected: SampleFormat, as_tensors: bool | None = None) -> Samples:
    """Read samples; pictures are decoded later, when their turn comes.

    Args:
        path: a folder, or an .npz, .csv or .parquet file.
        expected: that of the network.
        as_tensors: whether an .npz holds tensors; None to decide by the names of its arrays.

    Raises:
        ModelInputError: an .npz file cannot be read.
        SampleError: anything else that is wrong with the samples, naming the file, row or array.
    """
    if path.is_dir():
        return _pictures(path, expected)
    if path.suffix.lower() in SUFFIXES:
        return table_samples(path, expected)
    if path.suffix.lower() == ".npz":
        return _archive(path, expected, as_tensors)
    raise SampleError(f"{str(path)!r} is not a folder of images, nor an .npz, .csv or .parquet file.")


def read_samples_of_file(
    path: Path, source: Path, model: ir.Model, preprocessing: Preprocessing | None, as_tensors: bool | None = None
) -> Samples:
    """Read samples of a file's network, which may take 8-bit pixels.

    Args:
        path: as in `read_samples`.
        source: the file, for messages.
        model: its network.
        preprocessing: of its card, if it has one.
        as_tensors: as in `read_samples`.

    Raises:
        ModelFileError: an input is not a tensor of known rank.
        PixelError: the network takes pixels, and the card is of rows or sequences.
        ModelInputError, SampleError: as in `read_samples`.
    """
    infos = input_infos(source, model)
    if preprocessing is None or [info.dtype for info in infos] != [ir.DataType.UINT8]:
        return read_samples(path, SampleFormat(infos, preprocessing, takes_pixels=False), as_tensors)
    floats = [ValueInfo(info.name, ir.DataType.FLOAT, info.shape) for info in infos]
    given = read_samples(path, SampleFormat(floats, preprocessing, takes_pixels=True), as_tensors)
    return as_pixels(given, preprocessing)


def read_kept_samples(state_dir: Path, manifest: Manifest, expected: SampleFormat) -> Samples:
    """Read what a service kept of a version's inputs, in the order in which they came.

    Args:
        state_dir: the service's folder.
        manifest: the version's.
        expected: that of the network.

    Raises:
        SampleError: there are none, or they are of another network.
    """
    folder = drift_folder(state_dir, manifest) if MONITOR_NAME in manifest.files else state_dir
    is_complete = request_flush(folder)
    found = [row for path in sorted(folder.glob(f"*{SAMPLES_SUFFIX}")) for row in read_stored_samples(path)]
    if not found:
        raise SampleError(
            f"{str(state_dir)!r} keeps no inputs of {manifest.name}/{manifest.version}; a service keeps them with "
            "NORMFOLD_KEEP_SAMPLES, of versions that it monitors for drift, and writes them within ten seconds."
        )
    rows, arrays = stack_samples(newest_samples(found, len(found)))
    missing = [info.name for info in expected.infos if info.name not in arrays]
    if missing:
        raise SampleError(f"What {str(state_dir)!r} keeps of {manifest.name} has no input {missing[0]!r}.")
    first, last = (datetime.fromtimestamp(row.time, UTC).strftime("%Y-%m-%d %H:%M:%S") for row in (rows[0], rows[-1]))
    origin = f"The service kept {len(rows):,} rows, which came between {first} and {last} UTC."
    if not is_complete:
        origin += " It did not write its newest rows on request; those of the last ten seconds may be missing."
    return replace(tensor_samples(folder, arrays, expected), origin=origin)


def _pictures(folder: Path, expected: SampleFormat) -> Samples:
    preprocessing = expected.preprocessing
    if not isinstance(preprocessing, ImagePreprocessing):
        raise SampleError(f"{str(folder)!r} is a folder, and the network has no card that says how to read images.")
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
    except OSError as error:
        raise SampleError(f"{str(folder)!r} cannot be read: {error.strerror}.") from None
    if not files:
        raise SampleError(f"{str(folder)!r} holds no PNG or JPEG file.")

    def read(start: int, stop: int) -> Inputs:
        raw = np.stack([_decode(preprocessing, file) for file in files[start:stop]])
        return {expected.infos[0].name: preprocessing.standardise(raw)}

    return Samples(len(files), read)


def _decode(preprocessing: ImagePreprocessing, file: Path) -> Tensor:
    try:
        return preprocessing.decode_image(file.read_bytes())
    except OSError as error:
        raise SampleError(f"{str(file)!r} cannot be read: {error.strerror}.") from None
    except RawInputError as error:
        raise SampleError(f"{str(file)!r} cannot be used: {error}") from None


def _archive(path: Path, expected: SampleFormat, as_tensors: bool | None) -> Samples:
    arrays = read_arrays(path)
    names = [info.name for info in expected.infos]
    may_be_tensors = arrays.keys() >= set(names)
    may_be_raw = RAW in arrays and (expected.preprocessing is not None or len(names) == 1)
    if as_tensors is None and may_be_tensors and may_be_raw and expected.preprocessing is not None:
        raise SampleError(
            f"{str(path)!r} may hold raw inputs or the network's tensors, which has an input of that name too; "
            "give `as_tensors`."
        )
    if may_be_tensors and as_tensors is not False:
        return tensor_samples(path, {name: arrays[name] for name in names}, expected)
    if not may_be_raw or as_tensors:
        raw = f", or raw inputs {RAW!r}" if expected.preprocessing is not None else ""
        raise SampleError(f"{str(path)!r} holds the arrays {sorted(arrays)}; wanted are tensors {names}{raw}.")
    if expected.preprocessing is None:  # raw inputs are tensors
        return tensor_samples(path, {names[0]: arrays[RAW]}, expected)
    return raw_samples(path, arrays, expected.preprocessing, expected)
