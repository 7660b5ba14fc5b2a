"""What was tried while a model loaded, and what became of it: for its configuration and one line of the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from normfold.service.runtime.providers.session_request import Options


@dataclass(frozen=True)
class Trial:
    """One attempt.

    Attributes:
        options: that were tried, together with those kept before.
        problem: why it was not kept; empty if it was.
        before: seconds of a run by rows, as it was before; empty if it was not timed.
        after: the same with these options.
    """

    options: Options
    problem: str = ""
    before: Mapping[int, float] = field(default_factory=dict)
    after: Mapping[int, float] = field(default_factory=dict)

    @property
    def is_kept(self) -> bool:
        """Whether the network runs with these options."""
        return not self.problem

    def __str__(self) -> str:
        """Return times and outcome: `kept (1 row 1.200 ms instead of 1.800)`."""
        times = ", ".join(
            f"{rows} row{'s' * (rows != 1)} {1e3 * seconds:.3f} ms instead of {1e3 * self.before[rows]:.3f}"
            for rows, seconds in self.after.items()
        )
        outcome = "kept" if self.is_kept else f"not kept, {self.problem}"
        return f"{outcome} ({times})" if times else outcome


@dataclass
class Tuning:
    """All attempts for one loaded model.

    Attributes:
        options: attempts with other options.
        graphs: attempts with a CUDA graph, by rows.
    """

    options: list[Trial] = field(default_factory=list)
    graphs: dict[int, Trial] = field(default_factory=dict)

    def describe(self) -> dict[str, str]:
        """Return the outcome of each attempt, by what was tried: `prefer_nhwc=1`, `enable_cuda_graph=1 (8 rows)`."""
        described = {_join(trial.options): str(trial) for trial in self.options}
        for rows, trial in self.graphs.items():
            described[f"{_join(trial.options)} ({rows} row{'s' * (rows != 1)})"] = str(trial)
        return described

    def __str__(self) -> str:
        """Return it for a line of the log."""
        return "; ".join(f"{name}: {text}" for name, text in self.describe().items())


def _join(options: Options) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
