"""What a bundle remembers of normal inputs: `monitor.json` beside `monitor.onnx`.

The graph runs the network up to a few BatchNormalization layers, whose frozen statistics say what their outputs were
like in training: in each channel mean `shift`, and variance `scale² · running_var / (running_var + epsilon)`. It gives
each row's channel means and mean squares of

    u = (output − shift) / |scale|

so that in normal times, in each channel, u has the mean 0 and the variance `running_var / (running_var + epsilon)`.
Channels whose scale is nothing beside the rounding of what carries them are left out: their u would be that rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from normfold.contract.errors import InputError

MONITOR_NAME = "monitor.onnx"
MONITOR_CARD_NAME = "monitor.json"

Array = npt.NDArray[np.float64]


class MonitorError(InputError):
    """monitor.json cannot be read, or does not say what it must."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WatchedLayer(_Record):
    """One BatchNormalization whose outputs are watched."""

    node: str = Field(description="Its name in the unfolded network.")
    means: str = Field(description="Output of monitor.onnx, (rows, channels): means of u.")
    squares: str = Field(description="Output of monitor.onnx, (rows, channels): means of u².")
    variances: tuple[float, ...] = Field(min_length=1, description="Of u in normal times, by channel; between 0 and 1.")
    channels: tuple[int, ...] | None = Field(
        default=None, description="Numbers of these channels in the network; null: all of the layer's, in order."
    )
    threshold: float | None = Field(
        default=None, gt=0, description="Scores above it are not those of normal inputs; null: nothing to judge by."
    )

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if self.channels is not None and len(self.channels) != len(self.variances):
            raise ValueError(f"{len(self.channels)} channels have {len(self.variances)} variances")
        return self

    @property
    def numbers(self) -> tuple[int, ...]:
        """What the channels are called in the network."""
        return tuple(range(len(self.variances))) if self.channels is None else self.channels


class Monitor(_Record):
    """What is watched, and what is normal."""

    window_rows: int = Field(gt=0, description="Rows that a score is made of.")
    layers: tuple[WatchedLayer, ...] = Field(min_length=1)
    calibration_rows: int = Field(
        default=0, ge=0, description="Held-out rows that the thresholds come from; 0 without thresholds."
    )


def divergence(means: Array, variances: Array, normal: Array) -> Array:
    """Return, for each channel, how far a Gaussian is from the normal one.

    The Kullback-Leibler divergence of N(m, s² + r) from N(0, v + r) with v + r = 1, in nats:

        ½ (s² + r + m² − 1 − ln(s² + r))        r = 1 − v

    r = epsilon / (running_var + epsilon) is the part of a BatchNormalization's own denominator that is no variance of
    its inputs. It is nearly 0 where inputs vary, and 1 where they never did: there a variance of 0 is normal.

    Args:
        means: of u, (…, channels), float64.
        variances: of u, likewise.
        normal: of u in normal times, (channels,).

    Returns:
        (…, channels), float64, in nats: 0 where nothing moved, and finite even where u does not vary at all.
    """
    rest = 1 - normal
    spread = np.maximum(variances + rest, np.finfo(np.float64).tiny)
    result: Array = 0.5 * (spread + means**2 - 1 - np.log(spread))
    return result


def read_monitor(path: Path) -> Monitor:
    """Read monitor.json.

    Raises:
        MonitorError: unreadable, or fields that are wrong.
    """
    try:
        return Monitor.model_validate_json(path.read_bytes())
    except OSError as error:
        raise MonitorError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        first: Any = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MonitorError(f"{str(path)!r} has a wrong field {where!r}: {first['msg']}.") from None
