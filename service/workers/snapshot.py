"""Take the snapshot of the service that metrics are made of."""

from __future__ import annotations

from normfold.service.drift.monitor import DriftMonitor
from normfold.service.observability.snapshot import (
    CanarySnapshot,
    DriftSnapshot,
    LayerSnapshot,
    LoadedSnapshot,
    ServiceSnapshot,
    ShadowSnapshot,
    VersionSnapshot,
)
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository
from normfold.service.repository.roles import Candidate
from normfold.service.workers.coordinator import Coordinator


def take_snapshot(coordinator: Coordinator, repository: Repository) -> ServiceSnapshot:
    """Return the state of the service: over all workers, as of about a second ago in the others."""
    processes = coordinator.processes()
    return ServiceSnapshot(
        is_ready=coordinator.problem is None,
        in_flight=coordinator.in_flight(),
        workers=coordinator.workers,
        processes=processes,
        versions=[
            VersionSnapshot(
                model=name,
                version=number,
                is_desired=entry.is_desired,
                is_ready=coordinator.is_ready(name, number),
                loaded=None if entry.model is None else _describe(entry.model, coordinator, len(processes)),
            )
            for name, versions in repository.entries.items()
            for number, entry in versions.items()
        ],
        unreadable=[*repository.unreadable],
        load_failures=coordinator.load_failures(),
        stats=coordinator.stats(),
        shadows=[
            take_shadow_snapshot(name, state.shadow, coordinator)
            for name, state in repository.roles.states.items()
            if state.shadow is not None
        ],
        canaries=[
            CanarySnapshot(name, canary.version, canary.share, coordinator.is_ready(name, canary.version))
            for name, state in repository.roles.states.items()
            if (canary := state.canary) is not None
        ],
        payloads=coordinator.payloads(),
        lost_lines=coordinator.lost_lines(),
    )


def take_shadow_snapshot(name: str, shadow: Candidate, coordinator: Coordinator) -> ShadowSnapshot:
    """Return the state of a model's shadow, over all workers as `take_snapshot`."""
    is_ready, problem, stats = coordinator.shadow(name, shadow.version)
    return ShadowSnapshot(name, shadow.version, shadow.share, problem, is_ready, stats)


def _describe(model: Model, coordinator: Coordinator, workers: int) -> LoadedSnapshot:
    placement = model.session.placement
    return LoadedSnapshot(
        provider=placement.provider,
        queued_rows=coordinator.queued_rows(model.name, model.version),
        queue_capacity=workers * model.batcher.policy.queue_capacity,
        left_on_cpu=placement.left_on_cpu,
        nodes=placement.nodes or {},
        drift=None if model.drift_monitor is None else _describe_drift(model.drift_monitor),
    )


def _describe_drift(monitor: DriftMonitor) -> DriftSnapshot:
    score = monitor.score()
    return DriftSnapshot(
        rows=score.rows,
        rows_not_finite=score.rows_not_finite,
        window_fill=min(1.0, score.window_fill),
        drifted=score.drifted,
        layers=[LayerSnapshot(layer.node, layer.score, layer.threshold) for layer in score.layers],
    )
