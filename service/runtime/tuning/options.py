"""Choose the provider options of a network while it loads."""

from __future__ import annotations

from normfold.contract.errors import NormfoldError
from normfold.contract.precision.record import PrecisionKind
from normfold.service.runtime.providers.session_request import Options
from normfold.service.runtime.session import Session
from normfold.service.runtime.tuning.candidates import find_candidates
from normfold.service.runtime.tuning.comparison import Comparison, describe_failure
from normfold.service.runtime.tuning.inputs import timed_rows
from normfold.service.runtime.tuning.report import Trial
from normfold.service.runtime.tuning.search import try_candidates
from normfold.service.settings import Settings


def choose_options(
    session: Session, comparison: Comparison, settings: Settings, max_batch_size: int
) -> tuple[Session, list[Trial]]:
    """Open a network with each candidate's options, and keep those with which it is faster and computes the same.

    Args:
        session: the network, with default options.
        comparison: of that network.
        settings: the user's options, and the seconds for all attempts.
        max_batch_size: rows that a batch may have.

    Returns:
        The session to serve, which is the given one where nothing is kept, and all attempts.
    """
    precision = comparison.manifest.precision
    kind = PrecisionKind.FLOAT32 if precision is None else PrecisionKind(precision.kind)
    candidates = find_candidates(session.provider, kind, settings.provider_options, settings.tf32)
    best = session
    # A provider that builds an engine for a range of shapes must not see a smaller range first.
    sizes = session.warmup_order(max_batch_size) or timed_rows(max_batch_size)

    def attempt(options: Options) -> Trial:
        nonlocal best
        try:
            other = session.reopen(options)
            trial = comparison.compare(options, comparison.runner_of(best), comparison.runner_of(other), sizes)
        except NormfoldError as error:
            return Trial(options, describe_failure(error))
        if trial.is_kept:
            best = other
        return trial

    trials = try_candidates(candidates, attempt, settings.gpu_tuning_s)
    return best, trials
