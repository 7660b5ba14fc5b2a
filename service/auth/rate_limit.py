"""Rate limits: a token bucket for each key, filled at the key's rate; each request takes a token.

Buckets belong to this process. They are created with a key's first request and never removed: keys are few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class RateLimiter:
    """Token buckets by name.

    Args:
        share: part of each rate and burst that this process grants: 1 / N for each of N processes.
        clock: returns monotonic seconds.
    """

    def __init__(self, share: float = 1.0, clock: Callable[[], float] = monotonic) -> None:
        self._share, self._clock = share, clock
        self._buckets: dict[str, _Bucket] = {}

    def acquire(self, name: str, rate: float, burst: int) -> float:
        """Take one token.

        Args:
            name: of the bucket.
            rate: tokens a second.
            burst: capacity of the bucket, which is full at first; at least one token, whatever the share.

        Returns:
            0 if there was a token; otherwise the seconds until there is one.
        """
        now, rate, size = self._clock(), rate * self._share, max(1.0, burst * self._share)
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(size, now)
        bucket.tokens = min(size, bucket.tokens + (now - bucket.filled_at) * rate)
        bucket.filled_at = now
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / rate
        bucket.tokens -= 1
        return 0.0
