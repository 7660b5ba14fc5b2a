"""Samples as they are read, and the reader of NumPy archives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from normfold.contract.arrays import Array
from normfold.models.data.image_files.decoded import DecodedImages, DecodedMasks
from normfold.models.data.tables.read_table import Table
from normfold.models.data.targets import BY_VALUES, TargetOptions, Targets, read_targets
from normfold.models.errors import DataError

FLOAT32_MAX = np.float64(np.finfo(np.float32).max)
"""Largest finite value of float32, the dtype of networks' inputs."""


@dataclass(frozen=True)
class RawData:
    """Samples in raw units and their labels, as read."""

    x: Array | DecodedImages
    """(N, columns), (N, channels, length) or (N, channels, height, width), finite in float32."""
    y: Targets | DecodedMasks
    """Targets; their dtype and shape say the task, see `targets`."""
    labels: tuple[str, ...]
    """Names of the classes, values or labels."""
    columns: tuple[str, ...] | None = None
    """For rows: names of the columns; otherwise None."""
    channels: tuple[str, ...] | None = None
    """For sequences: names of the channels; otherwise None."""
    value_max: float = 255.0
    """For images: the raw value of full intensity."""
    background: float = 1.0
    """For images: intensity behind transparent pixels, 0 to 1."""
    groups: Array | None = None
    """Group of each row, (N,): rows of one group are in one split."""
    times: Array | None = None
    """Time of each row, (N,): the latest rows are tested."""
    table: Table | None = None
    """For rows of a table: its columns, whose values are `x`."""


def read_npz(path: Path, options: TargetOptions = BY_VALUES, layout: Literal["nchw", "nhwc"] = "nchw") -> RawData:
    """Read a data set from a NumPy archive.

        x           images (N, C, H, W) or (N, H, W), rows (N, columns), or, with `channels`, sequences (N, C, length)
        y           classes (N,), integers or strings; for images also masks (N, H, W) with a class for each pixel;
                    floats (N,) or (N, K), values to predict; 0 and 1 (N, K), labels that do not exclude each other
        labels      optional: names of the classes 0, 1, …, of the values, or of the labels
        columns     optional, for rows: names of the columns
        channels    for sequences: names of the channels
        value_max   optional, for images: value of full intensity; by default 255 for uint8, 65535 for uint16, and the
                    largest value of `x` for other dtypes
        groups      optional: (N,), group of each sample; rows of one group are in one split
        times       optional: (N,), time of each sample; the latest are tested

    Args:
        path: of the .npz file.
        options: task, and pixels of masks without a class.
        layout: nhwc for images (N, H, W, C).

    Raises:
        DataError: the file is missing or damaged, an array is missing, or has a wrong shape, dtype or value.

    Warns:
        TrainingWarning: see `read_targets`.
    """
    arrays = _load_arrays(path)
    groups, times = (_one_a_row(arrays, name, path) for name in ("groups", "times"))
    x, y = _require(arrays, "x", path), _require(arrays, "y", path)
    if x.dtype.kind not in "iuf":
        raise DataError(f"Array 'x' of {str(path)!r} is of dtype {x.dtype}; it must hold real numbers.")
    if x.ndim == 0 or y.ndim not in (1, 2, 3) or len(y) != len(x) or x.size == 0:
        raise DataError(
            f"Array 'y' of {str(path)!r} must be of shape (N,), (N, K), or (N, H, W) for masks, with N rows as "
            f"'x' has, at least one, none empty; x is {list(x.shape)}, y is {list(y.shape)}."
        )
    if layout == "nhwc":
        x = _channels_first(x, path)
    _check_float32(x, path)
    channels = _names(arrays, "channels", path)
    if y.ndim == 3 and (channels is not None or x.ndim < 3 or x.shape[-2:] != y.shape[1:]):
        raise DataError(
            f"Array 'y' of {str(path)!r} holds masks {list(y.shape)}, which need images of their height and width; "
            f"x is {list(x.shape)}.{_layout_remedy(x)}"
        )
    numbers, labels = read_targets(y, _names(arrays, "labels", path), path, options)
    if channels is not None:
        if x.ndim != 3 or x.shape[1] != len(channels):
            raise DataError(
                f"{str(path)!r} names {len(channels)} channels, so 'x' must be sequences (N, {len(channels)}, length); "
                f"it is {list(x.shape)}."
            )
        return RawData(x, numbers, labels, channels=channels, groups=groups, times=times)
    if x.ndim == 2:
        columns = _names(arrays, "columns", path) or tuple(f"x{index}" for index in range(x.shape[1]))
        if len(columns) != x.shape[1]:
            raise DataError(f"{str(path)!r} names {len(columns)} columns, but 'x' has {x.shape[1]}.")
        return RawData(x, numbers, labels, columns=columns, groups=groups, times=times)
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise DataError(
            f"Array 'x' of {str(path)!r} must be images (N, H, W) or (N, C, H, W) with 1 or 3 channels, "
            f"or rows (N, columns); it is {list(arrays['x'].shape)}.{_layout_remedy(x)}"
        )
    value_max = _full_intensity(x, arrays.get("value_max"), path)
    return RawData(x, numbers, labels, value_max=value_max, groups=groups, times=times)


def _one_a_row(arrays: dict[str, Array], name: str, path: Path) -> Array | None:
    """Return an optional array with a value for each sample, none missing."""
    if name not in arrays or "x" not in arrays:
        return None
    array, kinds = arrays[name], "iufUM" if name == "times" else "iuU"
    if array.ndim != 1 or len(array) != len(arrays["x"]) or array.dtype.kind not in kinds:
        of = "numbers, dates or texts" if name == "times" else "whole numbers or texts"
        raise DataError(
            f"Array {name!r} of {str(path)!r} must hold {of}, one for each sample; it is of dtype {array.dtype} and "
            f"shape {list(array.shape)}."
        )
    missing = np.isnat(array) if array.dtype.kind == "M" else array != array  # NaN is not itself
    if missing.any():
        raise DataError(f"Array {name!r} of {str(path)!r} has no value for sample {int(np.argmax(missing))}.")
    return array


def _channels_first(x: Array, path: Path) -> Array:
    """Return images (N, H, W, C) as (N, C, H, W)."""
    if x.ndim != 4 or x.shape[3] not in (1, 3):
        raise DataError(
            f"With `layout` nhwc, array 'x' of {str(path)!r} must be images (N, H, W, C) with 1 or 3 channels; it is "
            f"{list(x.shape)}."
        )
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def _layout_remedy(x: Array) -> str:
    """Return what to do about images whose channels come last; nothing for other shapes."""
    channels_last = x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3)
    return " Its channels seem to come last: give `layout` nhwc." if channels_last else ""


def _load_arrays(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:  # opened here, since numpy does not close a damaged file
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{str(path)!r} holds one bare array; save x and y together with numpy.savez.")
            with archive:
                members: dict[str, Any] = {name: archive[name] for name in archive.files}
            # A member that is not a .npy file is read as bytes.
            return {name: member for name, member in members.items() if isinstance(member, np.ndarray)}
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise DataError(f"{str(path)!r} holds arrays larger than this machine's memory.") from None
    except Exception as error:  # noqa: BLE001 - numpy, zipfile and zlib raise many kinds for a damaged file
        # numpy's own message recommends to load pickled objects, which could run code.
        reason = "it holds Python objects" if "pickle" in str(error) else str(error).rstrip(".") or type(error).__name__
        raise DataError(f"{str(path)!r} is not a NumPy archive of plain arrays: {reason}.") from None


def _require(arrays: dict[str, Array], name: str, path: Path) -> Array:
    if name not in arrays:
        raise DataError(f"{str(path)!r} has no array {name!r}; it holds: {', '.join(arrays) or 'nothing'}.")
    return arrays[name]


def _check_float32(x: Array, path: Path) -> None:
    """Check that every value is finite in float32."""
    if x.dtype.kind != "f":  # all 64-bit integers are
        return
    wrong = ~(np.abs(x) <= FLOAT32_MAX)  # NaN too
    if wrong.any():
        first = tuple(np.argwhere(wrong)[0].tolist())
        row, *rest = first
        column = f", column {rest[0]}" if len(rest) == 1 else ""
        raise DataError(
            f"Array 'x' of {str(path)!r} holds {x[first]} in row {row}{column} (counted from 0), "
            "which is not a finite float32 number."
        )


def _names(arrays: dict[str, Array], name: str, path: Path) -> tuple[str, ...] | None:
    """Return an optional array of unique names."""
    if name not in arrays:
        return None
    array = arrays[name]
    if array.ndim != 1 or array.dtype.kind not in "iuU" or len(array) == 0:
        raise DataError(
            f"Array {name!r} of {str(path)!r} must be a list of names; it is of dtype {array.dtype} and shape "
            f"{list(array.shape)}."
        )
    names = tuple(str(entry) for entry in array.tolist())
    repeated = [entry for entry in names if names.count(entry) > 1]
    if repeated:
        raise DataError(f"Array {name!r} of {str(path)!r} holds {repeated[0]!r} twice.")
    return names


def _full_intensity(x: Array, given: Array | None, path: Path) -> float:
    if given is not None:
        value = float(given) if given.ndim == 0 and given.dtype.kind in "iuf" else math.nan
        if not float(np.finfo(np.float32).tiny) <= value <= FLOAT32_MAX:
            raise DataError(f"Array 'value_max' of {str(path)!r} must be one positive float32 number.")
        return value
    if x.dtype in (np.uint8, np.uint16):
        return float(np.iinfo(x.dtype).max)
    maximum = float(x.max())
    return maximum if maximum > 0 else 1.0
