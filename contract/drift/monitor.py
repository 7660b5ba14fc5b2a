"""The drift monitor of a bundle: `monitor.json` describes the outputs of the graph `monitor.onnx`.

The graph runs the network up to a few BatchNormalization layers. In training, a channel of their outputs had mean
`shift` and variance `scale² · running_var / (running_var + epsilon)`. The graph returns, for each row and channel, the
mean and the mean square over the positions of

    u = (output − shift) / |scale|

so that u of training inputs has mean 0 and variance `running_var / (running_var + epsilon)`. Channels whose scale is
below the rounding error of the tensor that holds them are left out, since their u would be that error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from normfold.contract.arrays import Float64Array
from normfold.contract.errors import InputError
from normfold.contract.record import first_validation_error

MONITOR_NAME = "monitor.onnx"
MONITOR_CARD_NAME = "monitor.json"


class MonitorError(InputError):
    """monitor.json cannot be read, or a field of it is wrong."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MonitoredLayer(_Record):
    """A BatchNormalization whose outputs are monitored for drift, or the input of a table's network."""

    node: str = Field(description="Name of the node in the unfolded network, or of the input.")
    means: str = Field(description="Output of monitor.onnx with the means of u, (rows, channels).")
    squares: str = Field(description="Output of monitor.onnx with the means of u², (rows, channels).")
    variances: tuple[float, ...] = Field(
        min_length=1, description="Variance of u over training inputs, by channel; between 0 and 1."
    )
    channels: tuple[int, ...] | None = Field(
        default=None, description="Indices of the monitored channels in the layer; null for all, in order."
    )
    names: tuple[str, ...] | None = Field(
        default=None,
        exclude_if=lambda names: names is None,
        description="Names of the monitored channels, where these are the inputs of a table's columns; else absent.",
    )
    threshold: float | None = Field(
        default=None, gt=0, description="Scores above it are drift; null if there were no validation data to set it."
    )

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if self.channels is not None and len(self.channels) != len(self.variances):
            raise ValueError(f"{len(self.channels)} channels have {len(self.variances)} variances")
        if self.names is not None and len(self.names) != len(self.variances):
            raise ValueError(f"{len(self.names)} names have {len(self.variances)} variances")
        return self

    @property
    def channel_indices(self) -> tuple[int, ...]:
        """Index in the layer of every monitored channel."""
        return tuple(range(len(self.variances))) if self.channels is None else self.channels


class Monitor(_Record):
    """The monitored layers, with the statistics and thresholds of training inputs."""

    window_rows: int = Field(gt=0, description="Number of recent rows that a score is computed from.")
    layers: tuple[MonitoredLayer, ...] = Field(min_length=1)
    calibration_rows: int = Field(
        default=0, ge=0, description="Number of rows that the thresholds come from; 0 without thresholds."
    )


def divergence(means: Float64Array, variances: Float64Array, training_variances: Float64Array) -> Float64Array:
    """Return the Kullback-Leibler divergence of each channel's inputs from its training inputs, both taken as Gaussian.

    With mean m and variance s² of u, and v its variance in training, the divergence of N(m, s² + r) from N(0, v + r)
    with v + r = 1 is

        ½ (s² + r + m² − 1 − ln(s² + r))        r = 1 − v = epsilon / (running_var + epsilon)

    r is the part of the BatchNormalization's denominator that epsilon contributes: nearly 0 where the training inputs
    vary, and 1 where they are constant, so that a variance of 0 does not count as drift there.

    Source: Kullback & Leibler 1951, The Annals of Mathematical Statistics 22(1), for two normal distributions.

    Args:
        means: means of u, (…, channels), float64.
        variances: variances of u, (…, channels), float64.
        training_variances: variances of u in training, (channels,), float64.

    Returns:
        (…, channels), float64, in nats: 0 without drift, and finite where u is constant.
    """
    r = 1 - training_variances
    total_variance = np.maximum(variances + r, np.finfo(np.float64).tiny)
    result: Float64Array = 0.5 * (total_variance + means**2 - 1 - np.log(total_variance))
    return result


def read_monitor(path: Path) -> Monitor:
    """Read monitor.json.

    Raises:
        MonitorError: unreadable, or a field is wrong.
    """
    try:
        return Monitor.model_validate_json(path.read_bytes())
    except OSError as error:
        raise MonitorError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        field, message = first_validation_error(error)
        raise MonitorError(f"{str(path)!r} has a wrong field {field!r}: {message}.") from None
