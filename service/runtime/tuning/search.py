"""The search: each candidate is tried over the options kept so far, until the seconds are used up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter

from normfold.service.runtime.providers.session_request import Options
from normfold.service.runtime.tuning.report import Trial


def try_candidates(
    candidates: Iterable[Options],
    attempt: Callable[[Options], Trial],
    max_seconds: float,
    clock: Callable[[], float] = perf_counter,
) -> list[Trial]:
    """Return a trial for each candidate.

    Args:
        candidates: options, in the order in which they are tried.
        attempt: tries options; called while fewer than `max_seconds` have passed, so that the last one may take longer.
        max_seconds: for all of them.
        clock: in seconds.
    """
    started, kept, trials = clock(), dict[str, str](), list[Trial]()
    for candidate in candidates:
        options = {**kept, **candidate}
        if clock() - started >= max_seconds:
            trials.append(Trial(options, f"not tried: {max_seconds:g} s were used up"))
            continue
        trial = attempt(options)
        trials.append(trial)
        if trial.is_kept:
            kept = options
    return trials
