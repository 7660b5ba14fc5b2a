"""From counts to the figures of a result."""

from __future__ import annotations

import numpy as np

from normfold._bench.load.level import Level, Measurement
from normfold._bench.result import LoadResult

_MS_PER_S = 1e3
_QUANTILES = (0.5, 0.9, 0.99, 1.0)


def to_result(level: Level, found: Measurement, rows: int) -> LoadResult:
    """Return the figures of a level.

    Args:
        level: that was run.
        found: what was counted.
        rows: of a request.
    """
    recorder = found.recorder
    p50_ms, p90_ms, p99_ms, max_ms = _quantiles_ms(np.frombuffer(recorder.latencies_s, np.float32))
    rate = recorder.answered / found.seconds
    return LoadResult(
        connections=found.connections,
        target_rate=level.rate,
        seconds=found.seconds,
        requests=recorder.due,
        answered=len(recorder.latencies_s),
        refusals=dict(recorder.refusals),
        errors=dict(recorder.errors),
        sentences=dict(recorder.sentences),
        unfinished=recorder.unfinished,
        rate=rate,
        rows_rate=rate * rows,
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        max_ms=max_ms,
        processor_share=found.processor_share,
        send_delay_p99_ms=_quantiles_ms(np.frombuffer(recorder.delays_s, np.float32))[2],
    )


def _quantiles_ms(seconds: np.ndarray) -> list[float | None]:
    """Return p50, p90, p99 and the maximum of values that occurred, in milliseconds."""
    if not seconds.size:
        return [None] * len(_QUANTILES)
    found = np.quantile(seconds, _QUANTILES, method="inverted_cdf")
    return [_MS_PER_S * float(value) for value in found]
