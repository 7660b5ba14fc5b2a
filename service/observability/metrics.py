"""A snapshot of the service as Prometheus metrics.

A new metric needs, besides its family here:

    a sum over time           a field of `ModelStats` in stats.py: `record` counts, `add` sums over the workers
    a state of this moment    a field in snapshot.py, filled in by service/workers/snapshot.py
    a name of Triton's        its family in triton_metrics.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from normfold.service.observability.lost_lines import lost_lines_family
from normfold.service.observability.payload_log.families import payload_families
from normfold.service.observability.rollout.families import rollout_families
from normfold.service.observability.snapshot import ServiceSnapshot
from normfold.service.observability.stats import PHASES, buckets
from normfold.service.observability.triton_metrics import triton_families

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LABELS = ("model", "version")

_INITIAL_STATUSES = (200, 429, 500, 503, 504)
"""Statuses whose counters begin with 0: increase() does not see a counter that begins with 1."""


class Metrics:
    """The body of GET /metrics.

    Args:
        take_snapshot: returns the state of the service.
        triton: add the metrics under the names of Triton's.
    """

    def __init__(self, take_snapshot: Callable[[], ServiceSnapshot], triton: bool) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_ServiceCollector(take_snapshot, triton))

    def families(self) -> Iterator[Metric]:
        """Yield every metric with its help and its samples, as far as there are any."""
        return iter(self._registry.collect())

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class _ServiceCollector(Collector):
    """All families, of one snapshot."""

    def __init__(self, take_snapshot: Callable[[], ServiceSnapshot], triton: bool) -> None:
        self._take_snapshot, self._triton = take_snapshot, triton

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        snapshot = self._take_snapshot()
        yield from _request_families(snapshot)
        yield from _model_families(snapshot)
        yield from _drift_families(snapshot)
        yield from rollout_families(snapshot)
        yield from payload_families(snapshot)
        yield lost_lines_family(snapshot)
        if self._triton:
            yield from triton_families(snapshot)
        yield from _process_families(snapshot)


def _request_families(snapshot: ServiceSnapshot) -> Iterable[Metric]:
    """Return the metrics of requests, their phases and runs."""
    requests = CounterMetricFamily(
        "normfold_requests",
        "Requests answered, by HTTP status; 499: the client disconnected.",
        labels=(*_LABELS, "status"),
    )
    rejections = CounterMetricFamily(
        "normfold_queue_rejections", "Requests rejected because the queue was full.", labels=_LABELS
    )
    rows = CounterMetricFamily("normfold_rows", "Rows that networks ran.", labels=_LABELS)
    values = CounterMetricFamily(
        "normfold_table_values",
        "Values of tables' rows that were missing, or a category unknown in training.",
        labels=(*_LABELS, "column", "found"),
    )
    phases = HistogramMetricFamily(
        "normfold_request_duration_seconds",
        "Seconds of each phase of the requests answered 200; the phase total is the whole request.",
        labels=(*_LABELS, "phase"),
    )
    batches = HistogramMetricFamily("normfold_batch_rows", "Rows of each run of a network.", labels=_LABELS)
    for (model, version), stats in sorted(snapshot.stats.items()):
        labels = [model, str(version) if version else ""]
        for status in sorted({*_INITIAL_STATUSES, *stats.statuses}):
            requests.add_metric([*labels, str(status)], stats.statuses[status])
        if not version:
            continue
        rejections.add_metric(labels, stats.queue_rejections)
        rows.add_metric(labels, stats.rows)
        for (column, found), count in sorted(stats.table_values.items()):
            values.add_metric([*labels, column, found], count)
        for phase, histogram in zip(PHASES, stats.phases, strict=True):
            phases.add_metric([*labels, phase], buckets(histogram), histogram.sum)
        batches.add_metric(labels, buckets(stats.batch_rows), stats.batch_rows.sum)
    in_flight = GaugeMetricFamily(
        "normfold_requests_in_flight", "Requests that are being answered.", value=snapshot.in_flight
    )
    return requests, rejections, rows, values, phases, batches, in_flight


def _model_families(snapshot: ServiceSnapshot) -> Iterable[Metric]:
    """Return the metrics of versions and their queues."""
    service = GaugeMetricFamily("normfold_ready", "1 where GET /v2/health/ready answers 200.", value=snapshot.is_ready)
    ready = GaugeMetricFamily(
        "normfold_model_ready", "1 where a version is ready, in every worker.", labels=(*_LABELS, "provider")
    )
    desired = GaugeMetricFamily("normfold_model_desired", "1 where a version should be ready.", labels=_LABELS)
    failures = CounterMetricFamily(
        "normfold_model_load_failures",
        "Loads that failed; with an empty model, of the whole repository.",
        labels=["model"],
    )
    queue = GaugeMetricFamily("normfold_queue_rows", "Rows that wait for a run.", labels=_LABELS)
    capacity = GaugeMetricFamily("normfold_queue_capacity_rows", "Rows that may wait.", labels=_LABELS)
    nodes = GaugeMetricFamily(
        "normfold_model_nodes", "Nodes of a network, by the provider that runs them.", labels=(*_LABELS, "provider")
    )
    fallback = GaugeMetricFamily(
        "normfold_model_provider_fallback",
        "1 where the CPU runs a network, or nodes of it, instead of an accelerator.",
        labels=_LABELS,
    )
    for version in snapshot.versions:
        labels, loaded = [version.model, str(version.version)], version.loaded
        ready.add_metric([*labels, loaded.provider if loaded else ""], version.is_ready)
        desired.add_metric(labels, version.is_desired)
        if loaded is not None:
            queue.add_metric(labels, loaded.queued_rows)
            capacity.add_metric(labels, loaded.queue_capacity)
            fallback.add_metric(labels, float(loaded.left_on_cpu))
            for provider, count in loaded.nodes.items():
                nodes.add_metric([*labels, provider], count)
    for name in snapshot.unreadable:  # its versions are not known
        ready.add_metric([name, "", ""], 0)
        desired.add_metric([name, ""], 1)
    models = {version.model for version in snapshot.versions}
    for name in sorted({"", *models, *snapshot.unreadable, *snapshot.load_failures}):
        failures.add_metric([name], snapshot.load_failures[name])
    return service, ready, desired, failures, queue, capacity, nodes, fallback


def _drift_families(snapshot: ServiceSnapshot) -> Iterable[Metric]:
    """Return the metrics of drift, of the versions that are monitored."""
    rows = CounterMetricFamily("normfold_drift_sampled_rows", "Rows of inputs that were sampled.", labels=_LABELS)
    not_finite = CounterMetricFamily(
        "normfold_drift_rows_not_finite", "Sampled rows whose statistics are NaN or infinite.", labels=_LABELS
    )
    fill = GaugeMetricFamily("normfold_drift_window_fill_ratio", "Filled fraction of the window.", labels=_LABELS)
    detected = GaugeMetricFamily(
        "normfold_drift_detected", "1 where a layer's score is above its threshold.", labels=_LABELS
    )
    of_layers = (*_LABELS, "layer")
    score = GaugeMetricFamily("normfold_drift_score", "Divergence of a layer's statistics, in nats.", labels=of_layers)
    threshold = GaugeMetricFamily(
        "normfold_drift_threshold", "Score above which a layer has drifted, in nats.", labels=of_layers
    )
    for version in snapshot.versions:
        if version.loaded is None or (drift := version.loaded.drift) is None:
            continue
        labels = [version.model, str(version.version)]
        rows.add_metric(labels, drift.rows)
        not_finite.add_metric(labels, drift.rows_not_finite)
        fill.add_metric(labels, drift.window_fill)
        if drift.drifted is not None:
            detected.add_metric(labels, float(drift.drifted))
        for layer in drift.layers:
            score.add_metric([*labels, layer.node], layer.score)
            if layer.threshold is not None:
                threshold.add_metric([*labels, layer.node], layer.threshold)
    return rows, not_finite, fill, detected, score, threshold


def _process_families(snapshot: ServiceSnapshot) -> Iterator[Metric]:
    """Yield memory, processor time and open files of the workers together, and the start of the oldest one."""
    families = [ProcessCollector(pid=partial(int, process), registry=None).collect() for process in snapshot.processes]
    for alike in zip(*families, strict=False):
        total = alike[0]
        values = [sample.value for family in alike for sample in family.samples]
        merged = min(values) if total.name == "process_start_time_seconds" else sum(values)
        total.samples = [total.samples[0]._replace(value=merged)]
        yield total
    yield GaugeMetricFamily("normfold_workers", "Worker processes.", value=len(snapshot.processes))
    yield GaugeMetricFamily(
        "normfold_workers_desired", "Worker processes that there should be.", value=snapshot.workers
    )
