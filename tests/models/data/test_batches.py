from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normfold.models.data.batches import epoch_batches, seed_everything
from normfold.models.errors import DataError


@given(rows=st.integers(2, 300), batch_size=st.integers(2, 80), epoch=st.integers(1, 5))
def test_batches_hold_all_rows_once_and_at_least_two_each(rows: int, batch_size: int, epoch: int) -> None:
    batches = epoch_batches(rows, batch_size, seed=0, epoch=epoch)
    assert sorted(np.concatenate(batches)) == list(range(rows))
    assert min(len(batch) for batch in batches) >= 2
    assert max(len(batch) for batch in batches) <= batch_size + 1


def test_single_last_row_is_merged_into_the_batch_before() -> None:
    assert [len(batch) for batch in epoch_batches(65, 32, seed=0, epoch=1)] == [32, 33]
    assert [len(batch) for batch in epoch_batches(66, 32, seed=0, epoch=1)] == [32, 32, 2]


@given(rows=st.integers(6, 200), batch_size=st.integers(6, 60))
def test_processes_get_equal_parts_of_each_batch(rows: int, batch_size: int) -> None:
    parts = [epoch_batches(rows, batch_size, seed=0, epoch=1, process=index, processes=3) for index in range(3)]
    for step in zip(*parts, strict=True):
        assert len({len(batch) for batch in step}) == 1
        assert len(step[0]) >= 2
    seen = np.concatenate([batch for part in parts for batch in part])
    assert len(set(seen)) == len(seen) >= rows - 2 * len(parts[0])


def test_order_of_rows_depends_on_seed_and_epoch() -> None:
    first = np.concatenate(epoch_batches(50, 10, seed=3, epoch=2))
    assert np.array_equal(first, np.concatenate(epoch_batches(50, 10, seed=3, epoch=2)))
    for seed, epoch in ((3, 1), (4, 2)):
        assert not np.array_equal(first, np.concatenate(epoch_batches(50, 10, seed=seed, epoch=epoch)))


@pytest.mark.parametrize(("rows", "batch_size", "processes"), [(1, 8, 1), (3, 8, 2), (100, 3, 2)])
def test_too_few_rows_for_a_variance_are_refused(rows: int, batch_size: int, processes: int) -> None:
    with pytest.raises(DataError, match="at least two rows"):
        epoch_batches(rows, batch_size, seed=0, epoch=1, processes=processes)


def test_random_state_depends_on_seed_epoch_and_process() -> None:
    def draw(*key: int) -> tuple[float, float]:
        seed_everything(*key)
        return torch.rand(()).item(), float(np.random.random())

    assert draw(1, 2, 0) == draw(1, 2, 0)
    assert len({draw(*key) for key in ((1, 2, 0), (2, 1, 0), (1, 2, 1), (1, 3, 0))}) == 4
