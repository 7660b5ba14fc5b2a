"""The metrics of the payload log."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, Metric

from normfold.service.observability.snapshot import ServiceSnapshot


def payload_families(snapshot: ServiceSnapshot) -> Iterable[Metric]:
    """Return the metrics of the payload log; without samples where there is none."""
    records = CounterMetricFamily(
        "normfold_payload_log_records",
        "Sampled answers, by outcome: written to the payload log, or lost.",
        labels=["outcome"],
    )
    for outcome, count in (snapshot.payloads or {}).items():
        records.add_metric([outcome], count)
    return [records]
