"""The sums of this process: every request that was answered is added to its model's, and written to the access log."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from itertools import count
from time import perf_counter, time

from normfold.service.codec.headers import Headers
from normfold.service.observability.access_log import AccessLog
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.observability.rollout.shadow_stats import ShadowStats
from normfold.service.observability.stats import ModelStats

PROBE_PATHS = frozenset(
    {
        *("/v2/health/live", "/v2/health/ready", "/metrics"),
        *("/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady"),
    }
)
"""Paths of probes and scrapers: requests with the statuses 200 and 503 are neither counted nor logged."""

_VALID_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Telemetry:
    """The sums of all models.

    Attributes:
        models: the sums of each version; under ("", 0) those of requests that ran none.
        in_flight: number of requests that are being answered.
        load_failures: loads that failed, by model, also of versions that are gone; under "" of the whole repository.
        shadows: the sums of each version that is a shadow.
        payloads: returns the counts of the payload log by outcome; None if there is none.
        lost_lines: returns the number of lines that were lost, by log.
    """

    def __init__(self, access_log: AccessLog) -> None:
        self.models: dict[tuple[str, int], ModelStats] = {}
        self.in_flight = 0
        self.load_failures: Counter[str] = Counter()
        self.shadows: dict[tuple[str, int], ShadowStats] = {}
        self.payloads: Callable[[], dict[str, int]] | None = None
        self.lost_lines: Callable[[], dict[str, int]] = dict
        self._access_log = access_log
        self._ids = count(1)
        self._id_prefix = os.urandom(6).hex()

    def request_id(self, headers: Headers) -> str:
        """Return the request's X-Request-Id header if it is valid, otherwise a new id."""
        given = headers.get(b"x-request-id")
        if given is not None and _VALID_REQUEST_ID.fullmatch(given):
            return given.decode()
        return f"{self._id_prefix}-{next(self._ids):x}"

    def stats(self, model: str, version: int) -> ModelStats:
        """Return the sums of a version; new ones for a version without sums."""
        found = self.models.get((model, version))
        if found is None:
            found = self.models[model, version] = ModelStats()
        return found

    def start(self, model: str, version: int) -> ModelStats:
        """Return new sums for a version that is being loaded."""
        self.models[model, version] = stats = ModelStats()
        return stats

    def remove(self, model: str, version: int, stats: ModelStats) -> None:
        """Remove the sums of a version that was unloaded, unless it was loaded again since."""
        if self.models.get((model, version)) is stats:
            del self.models[model, version]

    def record(self, trace: RequestTrace) -> None:
        """Count a request that was answered, and write its line to the access log."""
        if trace.path in PROBE_PATHS and trace.status in (200, 503):
            return
        trace.ended = perf_counter()
        stats = self.stats(trace.model if trace.version else "", trace.version)
        stats.statuses[trace.status] += 1
        total = trace.ended - trace.started
        queued = trace.queued_request
        if trace.status == 200 and queued is not None:
            decode, queue = trace.decoded - trace.received, queued.batched_at - queued.queued_at
            wait, run = queued.run_started_at - queued.batched_at, queued.run_ended_at - queued.run_started_at
            stats.phases.observe((decode, queue, wait, run, trace.encoded - queued.run_ended_at, total))
            stats.last_at = time()
        else:
            stats.failed_seconds += total
        self._access_log.write(trace)
