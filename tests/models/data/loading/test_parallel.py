from __future__ import annotations

import os

import pytest
import torch

from normfold.models.data.loading.parallel import map_in_order
from normfold.models.errors import DataError


def square(number: int) -> tuple[int, int]:
    """Return a square, and the process that computed it."""
    if number == 13:
        raise DataError("13 is not a number here.")
    return number**2, os.getpid()


@pytest.mark.slow
def test_results_of_workers_come_in_the_order_of_the_items() -> None:
    found = list(map_in_order(square, range(9), 2))
    assert [one for one, _ in found] == [number**2 for number in range(9)]
    processes = {process for _, process in found}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert {process for _, process in map_in_order(square, range(3), 0)} == {os.getpid()}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_error_of_a_worker_is_its_sentence(workers: int) -> None:
    with pytest.raises(DataError, match="^13 is not a number here.$"):
        list(map_in_order(square, range(20), workers))


def test_workers_leave_the_random_state_of_torch_as_it_is() -> None:
    before = torch.random.get_rng_state()
    assert len(list(map_in_order(square, range(3), 1))) == 3
    assert torch.equal(torch.random.get_rng_state(), before)
