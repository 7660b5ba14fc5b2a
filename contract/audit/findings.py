"""The result of an audit of BatchNorm layers: findings with their severities, and the layers' parameters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from normfold.contract.arrays import Float64Array


class Severity(StrEnum):
    """Severity of a finding, in ascending order."""

    INFO = "info"
    """A fact worth knowing; nothing is wrong."""
    WARNING = "warning"
    """The network works, and probably not as well as it could."""
    ERROR = "error"
    """Inference computes another function than the one that was trained."""

    def reaches(self, other: Severity) -> bool:
        """Return whether this severity is `other` or above."""
        order = list(Severity)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class Finding:
    """A problem of one layer, or of the whole network where `layer` is None."""

    severity: Severity
    code: str
    layer: str | None
    measurement: str
    """The measured values, in words."""
    advice: str
    """A remedy, in one sentence."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return {
            "severity": self.severity.value,
            "code": self.code,
            "layer": self.layer,
            "measurement": self.measurement,
            "advice": self.advice,
        }


@dataclass(frozen=True, eq=False)
class BatchNormLayer:
    """The parameters of one BatchNorm in inference, each of shape (C,), float64; they may be NaN or infinite."""

    name: str
    scale: Float64Array
    shift: Float64Array
    running_mean: Float64Array
    running_var: Float64Array
    epsilon: float

    @property
    def gain(self) -> Float64Array:
        """The gain of the layer's channel affine in inference, (C,).

        gain = scale / sqrt(running_var + epsilon)

        It is not finite where a parameter is not, or where the root's argument is negative or 0.
        """
        with np.errstate(all="ignore"):
            gain: Float64Array = self.scale / np.sqrt(self.running_var + self.epsilon)
        return gain


@dataclass(frozen=True, eq=False)
class StatisticsDifference:
    """Difference between a layer's running statistics and the statistics of its inputs over a data set, (C,) each."""

    layer: str
    mean_difference: Float64Array
    """(mean of the inputs - running_mean) / sqrt(running_var + epsilon)."""
    variance_ratio: Float64Array
    """(variance of the inputs + epsilon) / (running_var + epsilon)."""


@dataclass(frozen=True)
class Audit:
    """The result of an audit."""

    layers: tuple[BatchNormLayer, ...]
    findings: tuple[Finding, ...]
    differences: dict[str, StatisticsDifference]
    """Running statistics against a data set, by layer; empty without data."""
    notes: tuple[str, ...] = ()
    """Checks that were left out, with the reason, each in one sentence."""

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of this severity or above."""
        return tuple(finding for finding in self.findings if finding.severity.reaches(severity))
