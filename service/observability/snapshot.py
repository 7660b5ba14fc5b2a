"""The state of the whole service at one moment, over all worker processes: what metrics are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from normfold.service.observability.rollout.shadow_stats import ShadowStats
from normfold.service.observability.stats import ModelStats


@dataclass(frozen=True)
class LayerSnapshot:
    """Drift of one layer: its score in nats, and its threshold if it has one."""

    node: str
    score: float
    threshold: float | None


@dataclass(frozen=True)
class DriftSnapshot:
    """Drift of the inputs of one version.

    Attributes:
        rows: that were sampled.
        rows_not_finite: sampled rows without finite statistics, not counted in `rows`.
        window_fill: part of a window that is filled, 0 to 1.
        drifted: whether a layer's score is above its threshold; None if unknown.
        layers: of the network, from the first to the last.
    """

    rows: int
    rows_not_finite: int
    window_fill: float
    drifted: bool | None
    layers: Sequence[LayerSnapshot]


@dataclass(frozen=True)
class LoadedSnapshot:
    """A version that is loaded in this worker.

    Attributes:
        provider: short name of the provider that runs it.
        queued_rows: that wait, in all workers.
        queue_capacity: rows that may wait, in all workers.
        left_on_cpu: whether the CPU runs the network or nodes of it instead of an accelerator.
        nodes: number of nodes by provider; empty if unknown.
        drift: None if it is not monitored.
    """

    provider: str
    queued_rows: int
    queue_capacity: int
    left_on_cpu: bool
    nodes: Mapping[str, int]
    drift: DriftSnapshot | None


@dataclass(frozen=True)
class VersionSnapshot:
    """One version in the repository; `is_ready` in every worker."""

    model: str
    version: int
    is_desired: bool
    is_ready: bool
    loaded: LoadedSnapshot | None


@dataclass(frozen=True)
class CanarySnapshot:
    """A canary; `is_ready` in every worker."""

    model: str
    version: int
    share: float
    is_ready: bool


@dataclass(frozen=True)
class ShadowSnapshot:
    """A shadow, and its sums over all workers.

    Attributes:
        model: its name.
        version: that is the shadow.
        share: of the requests that it is offered.
        problem: the reason why it is not ready, or failed last, in this or another worker; None if nothing is wrong.
        is_ready: in every worker.
        stats: sums over all workers.
    """

    model: str
    version: int
    share: float
    problem: str | None
    is_ready: bool
    stats: ShadowStats


@dataclass(frozen=True)
class ServiceSnapshot:
    """The state of the service.

    Attributes:
        is_ready: whether GET /v2/health/ready answers 200.
        in_flight: number of requests that are being answered.
        workers: number of worker processes that there should be.
        processes: ids of those that live.
        versions: of all models.
        unreadable: models whose versions cannot be listed.
        load_failures: by model; under "" of the whole repository.
        stats: by model and version; under ("", 0) of requests that ran no model.
        shadows: of all models.
        canaries: of all models.
        payloads: answers by what became of them in the payload log; None if there is none.
        lost_lines: lines of logs that were lost, by log.
    """

    is_ready: bool
    in_flight: int
    workers: int
    processes: Sequence[int]
    versions: Sequence[VersionSnapshot]
    unreadable: Sequence[str]
    load_failures: Counter[str]
    stats: Mapping[tuple[str, int], ModelStats]
    shadows: Sequence[ShadowSnapshot] = ()
    canaries: Sequence[CanarySnapshot] = ()
    payloads: Mapping[str, int] | None = None
    lost_lines: Mapping[str, int] = field(default_factory=dict)
