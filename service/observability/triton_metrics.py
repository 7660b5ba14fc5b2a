"""The metrics under the names that dashboards made for Triton know; times are sums of microseconds."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from normfold.service.observability.snapshot import ServiceSnapshot
from normfold.service.observability.stats import ModelStats

_LABELS = ("model", "version")

_COUNTERS = (
    ("request_success", "Requests answered."),
    ("request_failure", "Requests that failed."),
    ("count", "Rows answered."),
    ("exec_count", "Runs of the network."),
    ("request_duration_us", "Microseconds of requests answered."),
    ("queue_duration_us", "Microseconds in the queue."),
    ("compute_input_duration_us", "Microseconds of decoding."),
    ("compute_infer_duration_us", "Microseconds of running."),
    ("compute_output_duration_us", "Microseconds of encoding."),
)


def triton_families(snapshot: ServiceSnapshot) -> Iterable[Metric]:
    """Return the metrics `nv_inference_…`."""
    counters = {name: CounterMetricFamily(f"nv_inference_{name}", text, labels=_LABELS) for name, text in _COUNTERS}
    for (model, version), stats in sorted(snapshot.stats.items()):
        if version:
            for name, value in _sums(stats).items():
                counters[name].add_metric([model, str(version)], value)
    pending = GaugeMetricFamily("nv_inference_pending_request_count", "Rows that wait.", labels=_LABELS)
    for one in snapshot.versions:
        if one.loaded is not None:
            pending.add_metric([one.model, str(one.version)], one.loaded.queued_rows)
    return *counters.values(), pending


def _sums(stats: ModelStats) -> dict[str, float]:
    decode, queue, wait, run, encode, total = (1e6 * histogram.sum for histogram in stats.phases)
    return {
        "request_success": stats.statuses[200],
        "request_failure": stats.statuses.total() - stats.statuses[200],
        "count": stats.rows,
        "exec_count": stats.batch_rows.count,
        "request_duration_us": total,
        "queue_duration_us": queue + wait,
        "compute_input_duration_us": decode,
        "compute_infer_duration_us": run,
        "compute_output_duration_us": encode,
    }
