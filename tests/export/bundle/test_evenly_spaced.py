"""Evenly spaced places in a sequence."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.export.bundle.evenly_spaced import evenly_spaced


@pytest.mark.parametrize(("count", "limit"), [(0, 5), (1, 5), (5, 5), (6, 5), (2001, 2000), (40_000, 2000), (11, 3)])
def test_evenly_spaced_places_reach_the_limit_at_even_gaps(count: int, limit: int) -> None:
    places = evenly_spaced(count, limit)

    assert len(places) == min(count, limit)
    gaps = np.diff([*places, count])
    assert places[:1] == [0] * bool(count)
    assert all(gap in (count // limit, count // limit + 1) or (count <= limit and gap == 1) for gap in gaps)
