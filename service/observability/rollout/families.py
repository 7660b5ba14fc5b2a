"""The metrics of shadows and canaries."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from normfold.service.observability.snapshot import ServiceSnapshot
from normfold.service.observability.stats import buckets

_LABELS = ("model", "version")


def rollout_families(snapshot: ServiceSnapshot) -> Iterable[Metric]:
    """Return the metrics of shadows and canaries; without samples where there are none."""
    share = GaugeMetricFamily(
        "normfold_canary_share",
        "Share of the requests without a version that a canary answers; 0 while it is not ready.",
        labels=_LABELS,
    )
    for canary in snapshot.canaries:
        share.add_metric([canary.model, str(canary.version)], canary.share if canary.is_ready else 0)
    ready = GaugeMetricFamily("normfold_shadow_ready", "1 where a shadow is ready, in every worker.", labels=_LABELS)
    requests = CounterMetricFamily(
        "normfold_shadow_requests",
        "Sampled requests of a shadow, by outcome: compared, dropped or failed.",
        labels=(*_LABELS, "outcome"),
    )
    rows = CounterMetricFamily("normfold_shadow_rows", "Rows whose outputs were compared.", labels=_LABELS)
    not_finite = CounterMetricFamily(
        "normfold_shadow_rows_not_finite",
        "Compared rows with NaN or Infinity in the outputs of one version alone.",
        labels=_LABELS,
    )
    classes = CounterMetricFamily(
        "normfold_shadow_classes", "Top classes that were compared, of rows or pixels.", labels=_LABELS
    )
    agreeing = CounterMetricFamily(
        "normfold_shadow_classes_agreeing", "Compared top classes that are equal.", labels=_LABELS
    )
    difference = GaugeMetricFamily(
        "normfold_shadow_max_difference",
        "Largest absolute difference of an output between the shadow and the version that serves.",
        labels=(*_LABELS, "output"),
    )
    runs = HistogramMetricFamily(
        "normfold_shadow_run_duration_seconds",
        "Seconds of the runs of compared requests, by runner: the shadow, or the version that serves.",
        labels=(*_LABELS, "runner"),
    )
    for shadow in snapshot.shadows:
        labels, stats = [shadow.model, str(shadow.version)], shadow.stats
        ready.add_metric(labels, shadow.is_ready)
        for outcome in ("compared", "dropped", "failed"):
            requests.add_metric([*labels, outcome], getattr(stats, outcome))
        rows.add_metric(labels, stats.rows)
        not_finite.add_metric(labels, stats.rows_not_finite)
        classes.add_metric(labels, stats.classified)
        agreeing.add_metric(labels, stats.agreeing)
        for output, value in stats.max_differences.items():
            difference.add_metric([*labels, output], value)
        for runner, histogram in (("serving", stats.serving_run), ("shadow", stats.shadow_run)):
            runs.add_metric([*labels, runner], buckets(histogram), histogram.sum)
    return share, ready, requests, rows, not_finite, classes, agreeing, difference, runs
