"""Threads of torch on CPU; this module imports torch only where it sets their number.

On a machine that has other work, two threads of OpenMP that wait for each other in a loop take each other's time: an
epoch of `mlp` on digits took 32 s in place of 0.3 s, one of `convnet` 61 s in place of 1.4 s. With the wait policy
PASSIVE a thread that waits sleeps, and these epochs take 0.8 s and 2.9 s. The number of threads is left to torch, since
another number changes the order of additions, and so the last digits of a result (two threads on one core of an AMD
EPYC that seven other processes shared, with the normfold of 2026-11-28).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

WAIT_POLICY, SPIN_COUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
"""Variables of OpenMP and of its GNU library, which reads them once, when torch is imported."""


def let_waiting_threads_sleep() -> None:
    """Set OpenMP's wait policy to PASSIVE, unless a variable of the environment sets how threads wait.

    It has no effect in a process that has imported torch already.
    """
    if SPIN_COUNT not in os.environ:
        os.environ.setdefault(WAIT_POLICY, "PASSIVE")


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Let torch compute on CPU with this number of threads in the block; None leaves it as it is."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)
