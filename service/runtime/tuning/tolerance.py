"""The tolerance that a bundle states, and whether the outputs of two sessions are equal within it.

    float32         the error that verification of the fold allowed, relative to the output's range
    int8, float16   the stated SQNR to the float32 network, less 6.02 dB: two answers that are each that near to
                    float32's are at most twice as far from each other

Outputs of integers and booleans must be equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from normfold.contract.manifest import Manifest
from normfold.contract.precision.signal_to_noise import signal_to_noise_db
from normfold.service.codec.json_tensors import Array

_TWICE_DB = 20 * math.log10(2)


@dataclass(frozen=True)
class Tolerance:
    """Of each output of floats, one of the two.

    Attributes:
        errors: largest absolute difference, divided by the output's range.
        decibels: lowest SQNR.
    """

    errors: Mapping[str, float]
    decibels: Mapping[str, float]

    def find_difference(self, wanted: Mapping[str, Array], got: Mapping[str, Array]) -> str:
        """Return what differs by more than is allowed, in words; empty if nothing does."""
        differences = (self._compare(name, array, got[name]) for name, array in wanted.items())
        return next((text for text in differences if text), "")

    def _compare(self, name: str, wanted: Array, got: Array) -> str:
        if wanted.shape != got.shape:
            return f"{name!r} has the shape {list(got.shape)} instead of {list(wanted.shape)}"
        if wanted.dtype.kind != "f":
            return "" if np.array_equal(wanted, got) else f"{name!r} differs"
        finite = np.isfinite(wanted)
        if not np.array_equal(finite, np.isfinite(got)):
            return f"{name!r} is not finite where it was, or finite where it was not"
        if name in self.decibels:
            decibels = signal_to_noise_db(wanted, got)
            least = self.decibels[name]
            return "" if decibels >= least else f"{name!r} is {decibels:.1f} dB near, at least {least:.1f} are needed"
        error, allowed = _relative_error(wanted[finite], got[finite]), self.errors[name]
        return "" if error <= allowed else f"{name!r} differs by {error:.1e} of its range, {allowed:.1e} are allowed"


def stated_tolerance(manifest: Manifest) -> Tolerance | None:
    """Return the tolerance that a bundle states; None if it states none for an output of floats."""
    if manifest.precision is None:
        errors = {name: error.allowed for name, error in manifest.verification.items() if error.allowed > 0}
        tolerance = Tolerance(errors, {})
    else:
        outputs = manifest.precision.proof.outputs
        tolerance = Tolerance({}, {name: decibels - _TWICE_DB for name, decibels in outputs.items()})
    stated = tolerance.errors.keys() | tolerance.decibels.keys()
    floats = {spec.name for spec in manifest.outputs if spec.datatype.startswith("FP")}
    return tolerance if floats <= stated else None


def _relative_error(wanted: Array, got: Array) -> float:
    if not wanted.size:
        return 0.0
    difference = float(np.abs(wanted.astype(np.float64) - got.astype(np.float64)).max())
    span = float(np.ptp(wanted.astype(np.float64)))
    return difference / span if span else math.inf if difference else 0.0
