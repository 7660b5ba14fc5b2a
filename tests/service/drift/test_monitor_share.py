"""The share of processor time that a drift monitor takes, by a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from normfold.contract.drift.monitor import Monitor, MonitoredLayer
from normfold.service.drift import monitor as module
from normfold.service.drift.monitor import BUSY_UTILIZATION, HANDOVER_S, DriftMonitor

RUN_S = 0.002
SECONDS = 60


class Machine:
    """Clocks, a network that takes RUN_S of processor time, and the one thread that it runs in."""

    def __init__(self, busy: float) -> None:
        self.busy, self.now, self.ran = busy, 0.0, 0
        self.inputs = {"input": ("FP32", (-1, 4))}

    def process_time(self) -> float:
        """Return what the process has used, beside the monitor."""
        return self.busy * self.now

    def thread_time(self) -> float:
        """Return what the monitor has used."""
        return self.ran * (RUN_S - HANDOVER_S)

    def run(self, sample: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Run the monitor."""
        self.ran += 1
        return [np.zeros((len(sample["input"]), 3), np.float32) for _ in outputs]

    def start(self, function: Callable[[], Any], _: asyncio.AbstractEventLoop, then: Callable[..., None]) -> None:
        """Call a function at once."""
        then(function(), None)


def looked_at(monkeypatch: pytest.MonkeyPatch, *, busy: float, share: float, processors: int = 1) -> int:
    """Return how often the monitor ran in SECONDS of a thousand requests each."""
    machine: Any = Machine(busy)
    monkeypatch.setattr(module, "process_time", machine.process_time)
    monkeypatch.setattr(module, "thread_time", machine.thread_time)
    monkeypatch.setattr(module, "perf_counter", lambda: machine.now)
    layer = MonitoredLayer(node="norm", means="m", squares="s", variances=(1.0, 1.0, 1.0))
    monitor = Monitor(window_rows=200, layers=(layer,))

    async def ask() -> None:
        drift_monitor = DriftMonitor(monitor, machine, machine, share, processors)
        for _ in range(1000 * SECONDS):
            machine.now += 0.001
            drift_monitor.offer({"input": np.zeros((1, 4), np.float32)}, machine.now)

    asyncio.run(ask())
    return int(machine.ran)


@pytest.mark.parametrize(("busy", "processors"), [(0.9 * BUSY_UTILIZATION, 1), (1.8 * BUSY_UTILIZATION, 2)])
def test_monitor_takes_its_share_in_an_idle_process(
    monkeypatch: pytest.MonkeyPatch, busy: float, processors: int
) -> None:
    seen = looked_at(monkeypatch, busy=busy, share=0.01, processors=processors)

    assert seen == pytest.approx(0.01 * SECONDS / RUN_S, rel=0.03)


@pytest.mark.parametrize(("busy", "processors"), [(1.1 * BUSY_UTILIZATION, 1), (1.0, 1), (2.2 * BUSY_UTILIZATION, 2)])
def test_monitor_samples_less_in_a_busy_process(monkeypatch: pytest.MonkeyPatch, busy: float, processors: int) -> None:
    seen = looked_at(monkeypatch, busy=busy, share=0.01, processors=processors)

    spared = looked_at(monkeypatch, busy=0.0, share=0.01)
    assert seen == pytest.approx(spared / 8, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("busy", [0.0, 1.0])
def test_share_of_one_samples_every_request(monkeypatch: pytest.MonkeyPatch, busy: float) -> None:
    assert looked_at(monkeypatch, busy=busy, share=1.0) == 1000 * SECONDS
