"""Some of many, evenly evenly_spaced."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.export.bundle.evenly_spaced import evenly_spaced


@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 5), (5, 5), (6, 5), (2001, 2000), (40_000, 2000), (11, 3)])
def test_as_many_as_may_be_are_taken_at_even_gaps(count: int, most: int) -> None:
    places = evenly_spaced(count, most)

    assert len(places) == min(count, most)
    gaps = np.diff([*places, count])
    assert places[:1] == [0] * bool(count)
    assert all(gap in (count // most, count // most + 1) or (count <= most and gap == 1) for gap in gaps)
