"""Lines of the logs that were lost: how many in this process, and their metric."""

from __future__ import annotations

from prometheus_client.core import CounterMetricFamily, Metric

from normfold.service.logs import standard_error_writer
from normfold.service.observability.access_log import AccessLog
from normfold.service.observability.snapshot import ServiceSnapshot


def count_lost_lines(access_log: AccessLog) -> dict[str, int]:
    """Return the number of lines that were lost in this process, by log."""
    writer = standard_error_writer()
    return ({} if writer is None else {"standard_error": writer.lost_lines}) | access_log.lost_lines()


def lost_lines_family(snapshot: ServiceSnapshot) -> Metric:
    """Return the metric; it has a sample of each log that a thread writes."""
    lost = CounterMetricFamily(
        "normfold_log_lines_lost",
        "Lines that a log's reader or disk did not take; access lines without a file count for standard_error.",
        labels=["log"],
    )
    for log, count in snapshot.lost_lines.items():
        lost.add_metric([log], count)
    return lost
