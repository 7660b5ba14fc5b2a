"""The sums of `service.observability.request_trace` as Prometheus metrics, made when somebody asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from normfold.service.observability.request_trace import PHASES, Histogram, ModelStats
from normfold.service.repository.repository import Repository
from normfold.service.workers.coordinator import Coordinator

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LABELS = ("model", "version")

_INITIAL_COUNTERS = (200, 429, 500, 503, 504)
"""Statuses that are told before they were answered: increase() does not see a counter that begins with 1."""


class Metrics:
    """What GET /metrics answers.

    Args:
        coordinator: what was counted, and what waits.
        repository: what is loaded.
        triton: under the names of Triton's metrics too.
    """

    def __init__(self, coordinator: Coordinator, repository: Repository, triton: bool) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Requests(coordinator))
        self._registry.register(_Models(coordinator, repository))
        self._registry.register(_Shift(repository))
        if triton:
            self._registry.register(_Triton(coordinator, repository))
        self._registry.register(_Processes(coordinator))

    def families(self) -> Iterator[Metric]:
        """Yield every metric with its help and its samples, as far as there are any."""
        return iter(self._registry.collect())

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class _Requests(Collector):
    """Requests, their phases and runs, from the sums."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        requests = CounterMetricFamily(
            "normfold_requests", "Requests answered, by HTTP status; 499: the client left.", labels=(*_LABELS, "status")
        )
        refusals = CounterMetricFamily(
            "normfold_queue_refusals", "Requests refused because the queue was full.", labels=_LABELS
        )
        rows = CounterMetricFamily("normfold_rows", "Rows answered by infer, :predict and :classify.", labels=_LABELS)
        phases = HistogramMetricFamily(
            "normfold_request_seconds",
            "Seconds of the phases of requests that were answered.",
            labels=(*_LABELS, "phase"),
        )
        runs = HistogramMetricFamily("normfold_run_rows", "Rows of each run of a network.", labels=_LABELS)
        for (model, version), stats in sorted(self._coordinator.models().items()):
            labels = [model, str(version) if version else ""]
            for status in sorted({*_INITIAL_COUNTERS, *stats.statuses}):
                requests.add_metric([*labels, str(status)], stats.statuses[status])
            if not version:
                continue
            refusals.add_metric(labels, stats.refusals)
            rows.add_metric(labels, stats.rows)
            for phase, histogram in zip(PHASES, stats.phases, strict=True):
                phases.add_metric([*labels, phase], _buckets(histogram), histogram.sum)
            runs.add_metric(labels, _buckets(stats.run_rows), stats.run_rows.sum)
        yield from (requests, refusals, rows, phases, runs)
        yield GaugeMetricFamily(
            "normfold_in_flight", "Requests that are being answered.", value=self._coordinator.in_flight()
        )


class _Models(Collector):
    """What is loaded, and what waits."""

    def __init__(self, coordinator: Coordinator, repository: Repository) -> None:
        self._coordinator, self._repository = coordinator, repository

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield GaugeMetricFamily(
            "normfold_ready",
            "1 where GET /v2/health/ready answers 200.",
            value=self._coordinator.problem is None,
        )
        ready = GaugeMetricFamily(
            "normfold_model_ready", "1 where a version can answer, in every worker.", labels=(*_LABELS, "provider")
        )
        wanted = GaugeMetricFamily("normfold_model_wanted", "1 where a version should answer.", labels=_LABELS)
        queue = GaugeMetricFamily("normfold_queue_rows", "Rows that wait for a run.", labels=_LABELS)
        capacity = GaugeMetricFamily("normfold_queue_capacity_rows", "Rows that may wait.", labels=_LABELS)
        nodes = GaugeMetricFamily(
            "normfold_model_nodes", "Nodes of a network, by the provider that runs them.", labels=(*_LABELS, "provider")
        )
        fallback = GaugeMetricFamily(
            "normfold_model_provider_fallback",
            "1 where the CPU runs a network, or nodes of it, that something else was to run.",
            labels=_LABELS,
        )
        workers = len(self._coordinator.processes())
        for name, versions in self._repository.entries.items():
            for number, entry in versions.items():
                labels, model = [name, str(number)], entry.model
                provider = model.session.provider if model else ""
                ready.add_metric([*labels, provider], self._coordinator.can_answer(name, number))
                wanted.add_metric(labels, entry.is_wanted)
                if model is not None:
                    queue.add_metric(labels, self._coordinator.queued_rows(name, number))
                    capacity.add_metric(labels, workers * model.batcher.policy.queue_capacity)
                    fallback.add_metric(labels, float(model.session.place.left_on_cpu))
                    for provider, count in (model.session.place.nodes or {}).items():
                        nodes.add_metric([*labels, provider], count)
        for name in self._repository.unreadable:  # which versions there are, nobody knows
            ready.add_metric([name, "", ""], 0)
            wanted.add_metric([name, ""], 1)
        yield from (ready, wanted, self._load_failures(), queue, capacity, nodes, fallback)

    def _load_failures(self) -> Metric:
        """Return the loads that failed, with a 0 for every model whose loads did not."""
        family = CounterMetricFamily(
            "normfold_model_load_failures",
            "Loads that failed; with no model, of the whole repository.",
            labels=["model"],
        )
        failures = self._coordinator.load_failures()
        for name in sorted({"", *self._repository.entries, *self._repository.unreadable, *failures}):
            family.add_metric([name], failures[name])
        return family


class _Shift(Collector):
    """How far inputs are from those of training, where that is watched."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        rows = CounterMetricFamily("normfold_shift_rows", "Rows of inputs that were watched.", labels=_LABELS)
        not_finite = CounterMetricFamily(
            "normfold_shift_rows_not_finite", "Rows of inputs of which nothing can be said.", labels=_LABELS
        )
        fill = GaugeMetricFamily("normfold_shift_window_fill", "Part of a window that is seen, 0 to 1.", labels=_LABELS)
        shifted = GaugeMetricFamily(
            "normfold_shifted", "1 where a layer's score is above its threshold.", labels=_LABELS
        )
        of_layers = (*_LABELS, "layer")
        score = GaugeMetricFamily("normfold_shift_score", "Divergence of a layer's statistics, nats.", labels=of_layers)
        threshold = GaugeMetricFamily("normfold_shift_threshold", "Scores above it are not normal.", labels=of_layers)
        for name, versions in self._repository.entries.items():
            for number, entry in versions.items():
                if entry.model is None or entry.model.watch is None:
                    continue
                labels, found = [name, str(number)], entry.model.watch.shift()
                rows.add_metric(labels, found.rows)
                not_finite.add_metric(labels, found.rows_not_finite)
                fill.add_metric(labels, min(1.0, found.fill))
                if found.shifted is not None:
                    shifted.add_metric(labels, float(found.shifted))
                for layer in found.layers:
                    score.add_metric([*labels, layer.node], layer.score)
                    if layer.threshold is not None:
                        threshold.add_metric([*labels, layer.node], layer.threshold)
        yield from (rows, not_finite, fill, shifted, score, threshold)


class _Processes(Collector):
    """Memory, processor time and open files of the workers together, since the oldest of them began."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        processes = self._coordinator.processes()
        families = [ProcessCollector(pid=partial(int, process), registry=None).collect() for process in processes]
        for alike in zip(*families, strict=False):
            total = alike[0]
            values = [sample.value for family in alike for sample in family.samples]
            merged = min(values) if total.name == "process_start_time_seconds" else sum(values)
            total.samples = [total.samples[0]._replace(value=merged)]
            yield total
        yield GaugeMetricFamily("normfold_workers", "Processes that serve.", value=len(processes))
        yield GaugeMetricFamily(
            "normfold_workers_wanted", "Processes that should serve.", value=self._coordinator.workers
        )


class _Triton(Collector):
    """The same under the names that dashboards made for Triton know; times there are sums of microseconds."""

    def __init__(self, coordinator: Coordinator, repository: Repository) -> None:
        self._coordinator, self._repository = coordinator, repository

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        counters = {
            name: CounterMetricFamily(f"nv_inference_{name}", text, labels=_LABELS)
            for name, text in (
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
        }
        for (model, version), stats in sorted(self._coordinator.models().items()):
            if version:
                for name, value in _triton_sums(stats).items():
                    counters[name].add_metric([model, str(version)], value)
        yield from counters.values()
        pending = GaugeMetricFamily("nv_inference_pending_request_count", "Rows that wait.", labels=_LABELS)
        for name, versions in self._repository.entries.items():
            for number, entry in versions.items():
                if entry.model is not None:
                    pending.add_metric([name, str(number)], self._coordinator.queued_rows(name, number))
        yield pending


def _triton_sums(stats: ModelStats) -> dict[str, float]:
    decode, queue, wait, run, encode, total = (1e6 * histogram.sum for histogram in stats.phases)
    return {
        "request_success": stats.statuses[200],
        "request_failure": stats.statuses.total() - stats.statuses[200],
        "count": stats.rows,
        "exec_count": stats.run_rows.count,
        "request_duration_us": total,
        "queue_duration_us": queue + wait,
        "compute_input_duration_us": decode,
        "compute_infer_duration_us": run,
        "compute_output_duration_us": encode,
    }


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [f"{bound:g}" for bound in histogram.bounds] + ["+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
