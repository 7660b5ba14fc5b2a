"""Findings of an audit of BatchNorm layers: severities, findings, and the layers that were audited."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class Severity(StrEnum):
    """How much a finding matters, the least first."""

    INFO = "info"
    """Worth knowing; nothing is wrong."""
    WARNING = "warning"
    """The network works, and probably worse than it could."""
    ERROR = "error"
    """Inference computes something other than what was trained."""

    def reaches(self, other: Severity) -> bool:
        """Whether this matters at least as much as another."""
        order = list(Severity)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class Finding:
    """One fault of one layer, or of the network where `layer` is None."""

    severity: Severity
    code: str
    layer: str | None
    figure: str
    """What was measured, in words."""
    advice: str
    """What to do, in one sentence."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return {
            "severity": self.severity.value,
            "code": self.code,
            "layer": self.layer,
            "figure": self.figure,
            "advice": self.advice,
        }


@dataclass(frozen=True, eq=False)
class NormLayer:
    """The frozen parameters of one BatchNorm, each of shape (C,), float64, whatever their values."""

    name: str
    scale: FloatArray
    shift: FloatArray
    running_mean: FloatArray
    running_var: FloatArray
    epsilon: float

    @property
    def gain(self) -> FloatArray:
        """The slope of the layer in inference; not finite where a parameter is not, or where the variance is negative.

        gain = scale / sqrt(running_var + epsilon)
        """
        with np.errstate(all="ignore"):
            gain: FloatArray = self.scale / np.sqrt(self.running_var + self.epsilon)
        return gain


@dataclass(frozen=True, eq=False)
class LayerDrift:
    """How far the running statistics of one layer are from those of data; each array (C,)."""

    layer: str
    mean_shift: FloatArray
    """(mean of the data - running mean) / sqrt(running variance + epsilon)."""
    variance_ratio: FloatArray
    """(variance of the data + epsilon) / (running variance + epsilon)."""


@dataclass(frozen=True)
class Audit:
    """All that an audit found out."""

    layers: tuple[NormLayer, ...]
    findings: tuple[Finding, ...]
    drifts: dict[str, LayerDrift]
    """By layer; empty where there were no data to compare with."""
    notes: tuple[str, ...] = ()
    """What was not looked at, and why, each in one sentence."""

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings that matter at least so much."""
        return tuple(finding for finding in self.findings if finding.severity.reaches(severity))
