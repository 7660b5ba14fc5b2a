"""Rows of tables in several files, as the training file's preprocessing takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from normfold.contract.preprocess import Preprocessing
from normfold.models.data.files import RawData
from normfold.models.data.measure import measure
from normfold.models.data.splits import IndexArray
from normfold.models.data.splitting.own_files import OwnFile
from normfold.models.data.tables.encoding import encode, learn_encoding
from normfold.models.errors import DataError


def learn_rows(raw: RawData, train: IndexArray) -> Preprocessing:
    """Return the preprocessing of a table's rows, with the statistics and categories of its training rows.

    Args:
        raw: rows of a table.
        train: indices of the training rows.

    Raises:
        DataError: a column has no value in the training rows.
    """
    assert raw.table is not None
    return measure(raw, np.asarray(raw.x), train) if raw.table.is_plain else learn_encoding(raw.table, train)


def encode_rows(
    raw: RawData, own: Mapping[str, OwnFile], preprocessing: Preprocessing
) -> tuple[RawData, dict[str, OwnFile]]:
    """Return the rows of the training file, and of files of their own, as the preprocessing takes them.

    Raises:
        DataError: a file is no table, or has no column of the training file, or one of another kind.
    """
    assert raw.table is not None
    encoded: dict[str, OwnFile] = {}
    for split, file in own.items():
        if file.raw.table is None:
            raise DataError(f"{file.source!r} is no table, and the training data are one.")
        try:
            x = encode(file.raw.table, preprocessing)
        except DataError as error:
            raise DataError(f"{file.source!r} does not fit the training data: {error}") from None
        encoded[split] = replace(file, raw=replace(file.raw, x=x, columns=raw.columns))
    return replace(raw, x=encode(raw.table, preprocessing)), encoded
