"""Unlabelled samples to re-estimate statistics from: a folder of pictures, a table, or arrays.

    FOLDER   PNG and JPEG files, in the order of their names, decoded and standardised as the bundle's card says
    .csv     rows with a header; columns that the card does not name, such as labels, are ignored
    .npz     `x`, raw inputs as training data have them; or an array for each input of the network, tensors as it takes
             them; any further array, such as `y`, is ignored
    STATE    the state folder of a service that keeps recent inputs: those of this version, of all its processes

The network is the unfolded one: where the bundle takes pixels, it takes them standardised.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normfold.contract.manifest import Manifest
from normfold.contract.monitor import MONITOR_NAME
from normfold.contract.preprocess import ImagePreprocessing, Preprocessing, RawInputError, RowPreprocessing
from normfold.contract.samples import KEPT_SUFFIX, drift_folder, newest, read_kept, stacked
from normfold.export.errors import SampleError
from normfold.export.graph.pixels import Pixels, from_pixels
from normfold.export.verify.inputs import read_arrays
from normfold.export.verify.runner import Feeds, Port, Tensor
from normfold.export.verify.tolerance import is_float

RAW = "x"
"""The array of raw inputs, named as training data name it."""

_PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples in the order in which they came."""

    count: int
    read: Callable[[int, int], Feeds]
    """Return the tensors of the samples from one position up to another."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Taker:
    """What takes the samples: the unfolded network's inputs, and what the bundle says of raw inputs and pixels."""

    ports: Sequence[Port]
    preprocessing: Preprocessing | None
    takes_pixels: bool


def read_samples(path: Path, taker: Taker, as_tensors: bool | None = None) -> Samples:
    """Read samples; pictures are decoded later, when their turn comes.

    Args:
        path: a folder, or an .npz or .csv file.
        taker: what they are for.
        as_tensors: whether an .npz holds tensors; None to tell by the names of its arrays.

    Raises:
        FeedError: an .npz file cannot be read.
        SampleError: anything else that is wrong with the samples, naming the file, row or array.
    """
    if path.is_dir():
        return _pictures(path, taker)
    if path.suffix.lower() == ".csv":
        return _table(path, taker)
    if path.suffix.lower() == ".npz":
        return _archive(path, taker, as_tensors)
    raise SampleError(f"{str(path)!r} is no folder of pictures and no .npz or .csv file.")


def read_kept_samples(state_dir: Path, manifest: Manifest, taker: Taker) -> Samples:
    """Read what a service kept of a version's inputs, in the order in which they came.

    Args:
        state_dir: the service's folder.
        manifest: the version's.
        taker: what they are for.

    Raises:
        SampleError: there are none, or they are of another network.
    """
    folder = drift_folder(state_dir, manifest) if MONITOR_NAME in manifest.files else state_dir
    found = [row for path in sorted(folder.glob(f"*{KEPT_SUFFIX}")) for row in read_kept(path)]
    if not found:
        raise SampleError(
            f"{str(state_dir)!r} keeps no inputs of {manifest.name}/{manifest.version}; a service keeps them with "
            "NORMFOLD_KEEP_SAMPLES, of versions that it watches."
        )
    _, arrays = stacked(newest(found, len(found)))
    missing = [port.name for port in taker.ports if port.name not in arrays]
    if missing:
        raise SampleError(f"What {str(state_dir)!r} keeps of {manifest.name} has no input {missing[0]!r}.")
    return _tensors(folder, arrays, taker)


def _pictures(folder: Path, taker: Taker) -> Samples:
    preprocessing = taker.preprocessing
    if not isinstance(preprocessing, ImagePreprocessing):
        raise SampleError(f"{str(folder)!r} is a folder, but the bundle's card does not say how to read pictures.")
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
    except OSError as error:
        raise SampleError(f"{str(folder)!r} cannot be read: {error.strerror}.") from None
    if not files:
        raise SampleError(f"{str(folder)!r} holds no PNG or JPEG file.")

    def read(start: int, stop: int) -> Feeds:
        raw = np.stack([_decode(preprocessing, file) for file in files[start:stop]])
        return {taker.ports[0].name: preprocessing.standardise(raw)}

    return Samples(len(files), read)


def _decode(preprocessing: ImagePreprocessing, file: Path) -> Tensor:
    try:
        return preprocessing.decode_picture(file.read_bytes())
    except OSError as error:
        raise SampleError(f"{str(file)!r} cannot be read: {error.strerror}.") from None
    except RawInputError as error:
        raise SampleError(f"{str(file)!r} cannot be used: {error}") from None


def _table(path: Path, taker: Taker) -> Samples:
    preprocessing = taker.preprocessing
    if not isinstance(preprocessing, RowPreprocessing):
        raise SampleError(f"{str(path)!r} is a table, but the bundle's card does not say how to read rows.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(_rows(path, csv.reader(file), preprocessing))
    except OSError as error:
        raise SampleError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise SampleError(f"{str(path)!r} is no comma-separated UTF-8 table: {error}.") from None
    table = np.array(rows).reshape(len(rows), len(preprocessing.columns))
    return _standardised(table, preprocessing, taker)


def _rows(path: Path, lines: Iterator[list[str]], preprocessing: RowPreprocessing) -> Iterator[Tensor]:
    header = next(lines, [])
    missing = [column for column in preprocessing.columns if header.count(column) != 1]
    if missing:
        raise SampleError(f"{str(path)!r} must have one column {missing[0]!r}; its columns are {header}.")
    places = [header.index(column) for column in preprocessing.columns]
    for number, cells in enumerate(lines, start=2):
        if not cells:
            continue
        if len(cells) != len(header):
            raise SampleError(f"Row {number} of {str(path)!r} has {len(cells)} values, the header {len(header)}.")
        try:
            yield preprocessing.decode([float(cells[place]) for place in places])
        except ValueError as error:
            raise SampleError(f"Row {number} of {str(path)!r} cannot be used: {error}.") from None
        except RawInputError as error:
            raise SampleError(f"Row {number} of {str(path)!r} cannot be used: {error}") from None


def _archive(path: Path, taker: Taker, as_tensors: bool | None) -> Samples:
    arrays = read_arrays(path)
    names = [port.name for port in taker.ports]
    may_be_tensors = arrays.keys() >= set(names)
    may_be_raw = RAW in arrays and (taker.preprocessing is not None or len(names) == 1)
    if as_tensors is None and may_be_tensors and may_be_raw and taker.preprocessing is not None:
        raise SampleError(
            f"{str(path)!r} may hold raw inputs or the network's tensors, which has an input of that name too; "
            "say --raw or --tensors."
        )
    if may_be_tensors and as_tensors is not False:
        return _tensors(path, {name: arrays[name] for name in names}, taker)
    if not may_be_raw or as_tensors:
        raw = f", or raw inputs {RAW!r}" if taker.preprocessing is not None else ""
        raise SampleError(f"{str(path)!r} holds the arrays {sorted(arrays)}; wanted are tensors {names}{raw}.")
    if taker.preprocessing is None:  # raw inputs are tensors
        return _tensors(path, {names[0]: arrays[RAW]}, taker)
    return _raw(path, arrays, taker.preprocessing, taker)


def _tensors(path: Path, arrays: Mapping[str, Tensor], taker: Taker) -> Samples:
    for port in taker.ports:
        array, dtype = arrays[port.name], np.dtype(np.uint8) if taker.takes_pixels else port.dtype.numpy()
        if array.dtype != dtype:
            raise SampleError(f"The array {port.name!r} of {str(path)!r} is {array.dtype}, the network takes {dtype}.")
        sample = Port(port.name, port.dtype, port.shape[1:])
        if not port.shape or not array.ndim or not sample.fits(array.shape[1:]):
            raise SampleError(
                f"The array {port.name!r} of {str(path)!r} has shape {list(array.shape)}, the input {list(port.shape)}."
            )
        _require_finite(array, f"the array {port.name!r} of {str(path)!r}")
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise SampleError(f"The arrays of {str(path)!r} hold different numbers of samples: {counts}.")

    def read(start: int, stop: int) -> Feeds:
        return {port.name: _as_tensor(arrays[port.name][start:stop], port, taker) for port in taker.ports}

    return Samples(next(iter(counts.values())), read)


def _as_tensor(array: Tensor, port: Port, taker: Taker) -> Tensor:
    if not taker.takes_pixels:
        return array
    return Pixels.of(from_pixels(taker.preprocessing).preprocessing).standardised(array, port.dtype)


def _raw(path: Path, arrays: Mapping[str, Tensor], preprocessing: Preprocessing, taker: Taker) -> Samples:
    array, where = arrays[RAW], f"the array {RAW!r} of {str(path)!r}"
    if array.dtype.kind not in "iuf":
        raise SampleError(f"{_capitalised(where)} is {array.dtype}; it must hold real numbers.")
    sample = preprocessing.sample_shape
    if array.shape[1:] == sample[1:] and sample[:1] == (1,) and isinstance(preprocessing, ImagePreprocessing):
        array = array[:, None]  # grey pictures without an axis for their one channel
    if array.shape[1:] != sample or not array.ndim:
        raise SampleError(f"{_capitalised(where)} has shape {list(array.shape)}; one sample is {list(sample)}.")
    _require_finite(array, where)
    if isinstance(preprocessing, ImagePreprocessing):
        return _standardised(array, preprocessing, taker, *_beyond(array, preprocessing.value_max, where))
    what, wanted = (
        ("columns", preprocessing.columns)
        if isinstance(preprocessing, RowPreprocessing)
        else ("channels", preprocessing.channels)
    )
    names = tuple(map(str, arrays.get(what, np.array(wanted)).reshape(-1)))
    if names != wanted:
        raise SampleError(f"{str(path)!r} has the {what} {list(names)}, the card {list(wanted)}.")
    return _standardised(array, preprocessing, taker)


def _beyond(array: Tensor, full: float, where: str) -> list[str]:
    """Return a warning if raw values are not of the card's range: training takes them, people rarely mean them."""
    if not len(array) or 0 <= array.min() <= array.max() <= full:
        return []
    reach = f"from {array.min():g} to {array.max():g}, beyond the 0 to {full:g} of the card"
    return [f"{_capitalised(where)} reaches {reach}; are these its units?"]


def _standardised(array: Tensor, preprocessing: Preprocessing, taker: Taker, *warnings: str) -> Samples:
    name = taker.ports[0].name
    return Samples(len(array), lambda start, stop: {name: preprocessing.standardise(array[start:stop])}, warnings)


def _require_finite(array: Tensor, where: str) -> None:
    """Refuse what is no finite number, or none in the network's float32."""
    if not is_float(array):
        return
    limit = min(np.finfo(np.float32).max, np.finfo(array.dtype).max) if array.dtype.kind == "f" else np.inf
    with np.errstate(invalid="ignore"):
        usable = np.abs(array) <= limit if np.isfinite(limit) else np.isfinite(array)
    wrong = np.flatnonzero(~usable.all(axis=tuple(range(1, array.ndim))))
    if wrong.size:
        raise SampleError(f"Sample {wrong[0]} of {where}, counted from 0, holds what is no finite number.")


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]
