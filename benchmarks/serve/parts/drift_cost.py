"""What watching inputs costs: a service that watches by turns, as `serve_switch` does, with as much load as it takes.

The network is the small convolutional one for digits, whose requests are so cheap that anything beside them shows. What
is due while it is not watching's turn comes in the next, so a turn has twice its runs of the monitor, and what is told
is more than the cost. The interval holds 95 % of what seconds of the measurement, drawn again, give (bootstrap); its
upper end is held against the limit, so that a noisy measurement does not pass by luck.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from benchmarks.progress import tell
from benchmarks.serve.load import closed_loop
from benchmarks.serve.networks import infer_request
from benchmarks.serve.servers import PORTS, normfold
from benchmarks.serve.switch import TURN_S, TURNS

FIGURE = "watching: throughput that it costs, as a part, upper end of the interval"
LIMITS = {FIGURE: (0.02, "at most")}

TIMES = 14
"""As long as other measurements: at six times, the interval was as wide as the limit."""

_SETTLED_TURNS = round(1 / TURN_S)
_BLOCK = round(1.2 / TURN_S)
"""Turns that are drawn together: whole orders of them, and long enough for a run of the monitor."""

_RESAMPLES = 2000


def measure_watch(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Compare the service while it watches and while it does not."""
    row = np.random.default_rng(1).standard_normal((1, 1, 8, 8)).astype(np.float32)
    request, path = infer_request(repository, "digits", row, binary=False), folder / "turns.json"
    with normfold(repository, folder, module="benchmarks.serve.switch", **{TURNS: str(path)}):
        tell(f"watching, by turns: {TIMES * rounds * seconds:g} s")
        closed_loop(PORTS["normfold"], request, 64, TIMES * rounds * seconds, folder)
        with urlopen(f"http://127.0.0.1:{PORTS['normfold']}/v2/models/digits/drift", timeout=10) as answer:
            seen = json.load(answer)
    cost, low, high, turns = cost_of(json.loads(path.read_text()))
    sampling = seen["sampling"]
    windows = 3600 * min(10.0, sampling["most_rows_per_hour"] / 3600) / seen["window_rows"]
    print(
        f"\nwatching: {turns} pairs of turns of {TURN_S:g} s, costs {100 * cost:.2f} % of throughput "
        f"(95 %: {100 * low:.2f} to {100 * high:.2f}); {seen['rows']:,} rows seen;"
    )
    print(
        f"a share of {sampling['share']:g}, of {sampling['busy_share']:g} while busy; {sampling['row_ms']:.2f} ms a "
        f"row; at 10 requests a second, {windows:.0f} windows of {seen['window_rows']} rows an hour"
    )
    return {FIGURE: high}


def cost_of(turns: list[tuple[bool, int, float]]) -> tuple[float, float, float, int]:
    """Return what watching costs, as a part of throughput, the ends of its interval, and the pairs of turns."""
    loaded = [place for place, (_, requests, _) in enumerate(turns) if requests]
    used = np.array(turns[loaded[0] + _SETTLED_TURNS : loaded[-1]], np.float64)  # the last turn may be half
    used = used[: len(used) // _BLOCK * _BLOCK].reshape(-1, _BLOCK, 3)
    watched = used[:, :, :1] == 1
    sides = [(used[:, :, 1:] * (watched == side)).sum(axis=1) for side in (True, False)]  # (blocks, requests and s)

    def cost(blocks: np.ndarray) -> float:
        rates = [side[blocks].sum(axis=0) for side in sides]
        return float(1 - (rates[0][0] / rates[0][1]) / (rates[1][0] / rates[1][1]))

    rng = np.random.default_rng(0)
    drawn = [cost(rng.integers(0, len(used), len(used))) for _ in range(_RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return cost(np.arange(len(used))), float(low), float(high), used.shape[0] * _BLOCK // 2
