"""Compare two ways to run one network: are the outputs equal within the bundle's tolerance, and which is faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from normfold.contract.errors import NormfoldError
from normfold.contract.manifest import Manifest
from normfold.service.codec.json_tensors import Array
from normfold.service.errors import ProviderError, RunError
from normfold.service.runtime.providers.session_request import Options
from normfold.service.runtime.session import Session
from normfold.service.runtime.tuning.inputs import make_inputs, resize_rows
from normfold.service.runtime.tuning.report import Trial
from normfold.service.runtime.tuning.timing import is_faster, time_in_turns
from normfold.service.runtime.tuning.tolerance import Tolerance, stated_tolerance
from normfold.service.settings import Settings

Runner = Callable[[Mapping[str, Array]], list[Array]]
"""Runs a network once; returns all outputs, in the manifest's order."""


@dataclass(frozen=True)
class Comparison:
    """The inputs and the tolerance of one bundle."""

    manifest: Manifest
    inputs: Mapping[str, Array]
    tolerance: Tolerance

    @property
    def outputs(self) -> list[str]:
        """Names of all outputs."""
        return [spec.name for spec in self.manifest.outputs]

    def inputs_of(self, rows: int) -> dict[str, Array]:
        """Return random inputs with so many rows."""
        return resize_rows(self.inputs, self.manifest, rows)

    def runner_of(self, session: Session) -> Runner:
        """Return a function that runs a session."""
        return partial(session.run, outputs=self.outputs)

    def compare(self, options: Options, before: Runner, after: Runner, sizes: Sequence[int]) -> Trial:
        """Return a trial of `after`, which is kept if its outputs are equal within the tolerance and it is faster.

        Args:
            options: that `after` runs with.
            before: the network as it is run now.
            after: the network as it may be run.
            sizes: numbers of rows.

        Raises:
            RunError, InvalidRequestError: one of them fails.
        """
        times_before, times_after = dict[int, float](), dict[int, float]()
        for rows in sizes:
            inputs = self.inputs_of(rows)
            wanted, got = (dict(zip(self.outputs, run(inputs), strict=True)) for run in (before, after))
            difference = self.tolerance.find_difference(wanted, got)
            if difference:
                return Trial(options, difference)
            times_before[rows], times_after[rows] = time_in_turns(partial(before, inputs), partial(after, inputs))
        return Trial(options, "" if is_faster(times_before, times_after) else "not faster", times_before, times_after)


def find_comparison(session: Session, manifest: Manifest, settings: Settings) -> Comparison | None:
    """Return how other ways to run a network are compared with its session.

    Returns:
        None where none is tried: on the CPU, if the settings turn it off, if the inputs cannot be made up, or if the
        bundle states no tolerance.
    """
    if session.placement.runs_on_host or not settings.gpu_tuning_s:
        return None
    inputs, tolerance = make_inputs(manifest), stated_tolerance(manifest)
    return None if inputs is None or tolerance is None else Comparison(manifest, inputs, tolerance)


def describe_failure(error: NormfoldError) -> str:
    """Return why an attempt failed, for a trial."""
    if isinstance(error, ProviderError):
        return error.problem
    return error.detail if isinstance(error, RunError) else str(error)
