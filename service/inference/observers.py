"""What sees answers once they are computed, and does not change them: the shadow of a model, and the payload log."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from typing import Any

from normfold.service.codec.json_tensors import Array
from normfold.service.observability.payload_log.payload_log import PayloadLog
from normfold.service.observability.payload_log.record import Answer
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.repository.loaded_model import Model
from normfold.service.rollout.rollouts import Rollouts


class AnswerObservers:
    """Brings answers to those that observe them.

    Args:
        rollouts: the shadows.
        payload_log: None if there is none.
    """

    __slots__ = ("payload_log", "rollouts")

    def __init__(self, rollouts: Rollouts, payload_log: PayloadLog | None) -> None:
        self.rollouts, self.payload_log = rollouts, payload_log

    def answered(
        self,
        trace: RequestTrace,
        model: Model,
        tensors: Mapping[str, Array],
        results: Mapping[str, Array],
        *,
        names_version: bool,
        parameters: Mapping[str, Any] | None = None,
        part: int | None = None,
        parts: int = 1,
    ) -> None:
        """Offer an answer to the shadow of its model and to the payload log; on the event loop.

        Args:
            trace: the request's, which has run.
            model: the version that answered.
            tensors: by input; they must not change later.
            results: by output, those that were asked for.
            names_version: whether the client has named the version.
            parameters: of the request.
            part: index of these rows, where rows of one request ran apart.
            parts: number of such runs.
        """
        queued = trace.queued_request
        if self.rollouts.by_model and not names_version and queued is not None:
            seconds = (queued.run_ended_at - queued.run_started_at) / parts
            self.rollouts.offer(model, tensors, results, seconds)
        if self.payload_log is not None and self.payload_log.is_sampled():
            client_id = trace.client_request_id or trace.request_id
            version = model.version
            self.payload_log.write(
                Answer(time(), client_id, trace.request_id, model.name, version, parameters, tensors, results, part)
            )
