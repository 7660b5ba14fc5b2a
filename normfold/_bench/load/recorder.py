"""What is counted of one level of load."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter

from normfold._bench.connections.connection import Failure


@dataclass
class Recorder:
    """Counts the requests that were due in a window of time, whenever they are answered.

    A request that is due in the window and answered after it counts with its whole latency: otherwise a service that
    stalls at the end would seem fast. The rate counts the right answers that come in the window.

    Attributes:
        begin_s: of the window (perf_counter); what is due before it warms the service up.
        end_s: of the window.
        answered: right answers that came in the window, whenever they were due.
        latencies_s: of the right answers to requests that were due in the window.
        delays_s: of an open loop: from when a request was due to when it was sent, where a connection was free.
        due: requests that were due in the window, and have begun.
        refusals: by status.
        errors: by status.
        sentences: the first sentence of each status.
    """

    begin_s: float
    end_s: float
    answered: int = 0
    latencies_s: array[float] = field(default_factory=lambda: array("f"))
    delays_s: array[float] = field(default_factory=lambda: array("f"))
    due: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    sentences: dict[str, str] = field(default_factory=dict)

    def is_inside(self, at_s: float) -> bool:
        """Return whether a time is in the window."""
        return self.begin_s <= at_s < self.end_s

    def begin(self, due_s: float) -> None:
        """Count a request that was due at a time."""
        if self.begin_s <= due_s < self.end_s:
            self.due += 1

    def finish(self, due_s: float, failure: Failure | None) -> None:
        """Count the end of a request."""
        now = perf_counter()
        if failure is None:
            if self.begin_s <= now < self.end_s:
                self.answered += 1
            if self.begin_s <= due_s < self.end_s:
                self.latencies_s.append(now - due_s)
        elif self.begin_s <= due_s < self.end_s:
            (self.refusals if failure.is_refusal else self.errors)[failure.status] += 1
            self.sentences.setdefault(failure.status, failure.sentence)

    @property
    def unfinished(self) -> int:
        """Requests that were due in the window, and have no end yet."""
        return self.due - len(self.latencies_s) - self.refusals.total() - self.errors.total()
