"""How often a key may ask: a bucket of tokens for each, filled at its rate, emptied by one for each request.

Buckets are this process's own. One is made when a key first asks; keys are made by people, so there are few.
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
        share: what part of each rate and burst this process may give, 1 / N for each of N that share the requests.
        clock: seconds that never go back.
    """

    def __init__(self, share: float = 1.0, clock: Callable[[], float] = monotonic) -> None:
        self._share, self._clock = share, clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, name: str, rate: float, burst: int) -> float:
        """Take one token.

        Args:
            name: whose bucket.
            rate: tokens that come in a second.
            burst: tokens that it holds, full at first; at least one, whatever the share.

        Returns:
            0 if there was one; otherwise the seconds until there is.
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
