"""Cost of drift monitoring: a service under full load that switches its monitor on and off (`drift_switch`).

The network is the small convolutional one for digits, whose requests are so cheap that any other work is visible.
Monitor runs that are due while the monitor is off happen in the next period, so that a period with it has twice as many
runs, and the result overestimates the cost. The interval is a 95 % bootstrap interval over blocks of the measurement;
its upper end is compared with the limit, so that a noisy measurement does not pass by chance.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from benchmarks.progress import show_progress
from benchmarks.serve.drift_switch import PERIOD_S, SWITCH_LOG
from benchmarks.serve.load import closed_loop
from benchmarks.serve.networks import infer_request
from benchmarks.serve.servers import PORTS, normfold

FIGURE = "drift: fraction of throughput that monitoring costs, upper end of the interval"
LIMITS = {FIGURE: (0.02, "at most")}

DURATION_FACTOR = 14
"""Duration relative to other measurements; with 6, the interval was as wide as the limit."""

_SETTLING_PERIODS = round(1 / PERIOD_S)
_BLOCK = round(1.2 / PERIOD_S)
"""Periods of a bootstrap block: whole cycles of on and off, and long enough for a run of the monitor."""

_RESAMPLES = 2000


def measure_drift_cost(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Compare the throughput of the service with the monitor on and off."""
    row = np.random.default_rng(1).standard_normal((1, 1, 8, 8)).astype(np.float32)
    request, path = infer_request(repository, "digits", row, binary=False), folder / "periods.json"
    with normfold(repository, module="benchmarks.serve.drift_switch", **{SWITCH_LOG: str(path)}):
        show_progress(f"drift monitoring on and off: {DURATION_FACTOR * rounds * seconds:g} s")
        closed_loop(PORTS["normfold"], request, 64, DURATION_FACTOR * rounds * seconds, folder)
        with urlopen(f"http://127.0.0.1:{PORTS['normfold']}/v2/models/digits/drift", timeout=10) as answer:
            seen = json.load(answer)
    cost, low, high, periods = cost_of(json.loads(path.read_text()))
    sampling = seen["sampling"]
    windows = 3600 * min(10.0, sampling["max_rows_per_hour"] / 3600) / seen["window_rows"]
    print(
        f"\ndrift: {periods} pairs of periods of {PERIOD_S:g} s; monitoring costs {100 * cost:.2f} % of throughput "
        f"(95 %: {100 * low:.2f} to {100 * high:.2f}); {seen['rows']:,} rows seen;"
    )
    print(
        f"a share of {sampling['share']:g}, of {sampling['busy_share']:g} while busy; {sampling['row_ms']:.2f} ms a "
        f"row; at 10 requests a second, {windows:.0f} windows of {seen['window_rows']} rows an hour"
    )
    return {FIGURE: high}


def cost_of(periods: list[tuple[bool, int, float]]) -> tuple[float, float, float, int]:
    """Return the fraction of throughput that monitoring costs, the ends of its interval, and the pairs of periods."""
    loaded = [index for index, (_, requests, _) in enumerate(periods) if requests]
    used = np.array(
        periods[loaded[0] + _SETTLING_PERIODS : loaded[-1]], np.float64
    )  # the last period may be incomplete
    used = used[: len(used) // _BLOCK * _BLOCK].reshape(-1, _BLOCK, 3)
    monitored = used[:, :, :1] == 1
    sides = [(used[:, :, 1:] * (monitored == side)).sum(axis=1) for side in (True, False)]  # (blocks, requests and s)

    def cost(blocks: np.ndarray) -> float:
        rates = [side[blocks].sum(axis=0) for side in sides]
        return float(1 - (rates[0][0] / rates[0][1]) / (rates[1][0] / rates[1][1]))

    rng = np.random.default_rng(0)
    drawn = [cost(rng.integers(0, len(used), len(used))) for _ in range(_RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return cost(np.arange(len(used))), float(low), float(high), used.shape[0] * _BLOCK // 2
