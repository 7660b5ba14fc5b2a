"""What one worker publishes of itself: its sums, queues, shadows, payload log and lost lines, as JSON's types."""

from __future__ import annotations

from typing import Any

from normfold.service.observability.telemetry import Telemetry
from normfold.service.repository.repository import Repository
from normfold.service.rollout.rollouts import Rollouts


class WorkerRecord:
    """The records of this worker.

    Args:
        repository: this worker's models.
        telemetry: this worker's sums.
        rollouts: this worker's shadows; None if there are none.
    """

    def __init__(self, repository: Repository, telemetry: Telemetry, rollouts: Rollouts | None) -> None:
        self._repository, self._telemetry, self._rollouts = repository, telemetry, rollouts

    def everything(self) -> dict[str, Any]:
        """Return all of it."""
        models = [[name, version, stats.record()] for (name, version), stats in self._telemetry.models.items()]
        return {
            "models": models,
            "in_flight": self._telemetry.in_flight,
            "load_failures": self._telemetry.load_failures,
            "queues": self.queues(),
            "payloads": {} if self._telemetry.payloads is None else self._telemetry.payloads(),
            "lost_lines": self._telemetry.lost_lines(),
            **self.shadows(),
        }

    def shadows(self) -> dict[str, Any]:
        """Return the sums of the shadows, one for each that is loaded, and their problems."""
        shadows = [[name, number, stats.record()] for (name, number), stats in self._telemetry.shadows.items()]
        return {
            "shadows": shadows,
            "shadow_problems": {} if self._rollouts is None else self._rollouts.shadow_problems(),
        }

    def queues(self) -> list[tuple[str, int, int]]:
        """Return name, version and queued rows of every version that is ready."""
        return [
            (name, number, entry.model.batcher.queued_rows)
            for name, versions in self._repository.entries.items()
            for number, entry in versions.items()
            if entry.model is not None
        ]
