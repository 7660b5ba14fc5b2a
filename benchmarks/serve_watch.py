"""What watching inputs costs: the same service with it and without it, in interleaved pairs.

The network is the small convolutional one for digits, whose requests are so cheap that anything beside them shows.
"""

from __future__ import annotations

import json
import statistics
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from benchmarks.serve_load import closed_loop
from benchmarks.serve_networks import infer_request
from benchmarks.serve_servers import PORTS, normfold
from benchmarks.tell import tell

LIMITS = {"watching: throughput that it costs, as a part": (0.02, "at most")}

PAIRS = 8
"""Of each round: short ones, so that what else the machine does falls on both sides."""

_T = 2.03
"""Student's t at 95 %, for about 35 degrees of freedom."""

_SETTLED_S = 2.0


def measure_watch(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Compare the service that watches with one that does not."""
    row = np.random.default_rng(1).standard_normal((1, 1, 8, 8)).astype(np.float32)
    request, ratios = infer_request(repository, "digits", row, binary=False), []
    with ExitStack() as stack:
        stack.enter_context(normfold(repository, folder))
        stack.enter_context(normfold(repository, folder, "unwatched", NORMFOLD_WATCH_SHARE="0"))
        for name in ("normfold", "unwatched"):
            closed_loop(PORTS[name], request, 64, _SETTLED_S, folder)
        for number in range(PAIRS * rounds):
            tell(f"watching: pair {number + 1}")
            order = ("normfold", "unwatched") if number % 4 in (1, 2) else ("unwatched", "normfold")
            rates = {name: closed_loop(PORTS[name], request, 64, max(1.0, seconds / 3), folder).rate for name in order}
            ratios.append(rates["normfold"] / rates["unwatched"])
        with urlopen(f"http://127.0.0.1:{PORTS['normfold']}/v2/models/digits/shift", timeout=10) as answer:
            seen = json.load(answer)
    cost = 1 - statistics.mean(ratios)
    interval = _T * statistics.stdev(ratios) / len(ratios) ** 0.5
    sampling = seen["sampling"]
    windows = 3600 * min(10.0, sampling["most_rows_per_hour"] / 3600) / seen["window_rows"]
    print(f"\nwatching: {len(ratios)} pairs, costs {100 * cost:.2f} ± {100 * interval:.2f} % of throughput (95 %);")
    print(
        f"a share of {sampling['share']:g}: {sampling['row_ms']:.2f} ms a row; at 10 requests a second "
        f"{windows:.0f} windows of {seen['window_rows']} rows an hour; {seen['rows']:,} rows seen"
    )
    return {"watching: throughput that it costs, as a part": cost}
