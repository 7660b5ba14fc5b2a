"""How a network is trained: every setting that changes the result, as a record that goes to JSON and back."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from normfold.models.errors import TrainingWarning

STATE_PATH = Path("resume") / "state.safetensors"
"""In a run folder: from what a run can be resumed. Here, so that it can be looked for without importing torch."""

FEWEST_ROWS = 32
"""Statistics of fewer rows are noisy: Wu & He 2018, arXiv:1803.08494, figure 1."""

MOST_ROWS = 256
"""Larger batches generalise worse at the same number of epochs: Keskar et al. 2017, arXiv:1609.04836."""

PEAK_LR = {"adamw": 5e-3, "sgd": 0.1}


class TrainConfig(BaseModel):
    """Settings of one training run."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=20, gt=0, le=1_000_000, description="Passes over the training split.")
    batch_size: int = Field(default=64, ge=2, description="Rows in one step, over all processes together.")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="sgd has Nesterov momentum.")
    lr: float | None = Field(
        default=None, gt=0, le=1e30, description="Peak learning rate; null is 0.005 for adamw, 0.1 for sgd."
    )
    sgd_momentum: float = Field(default=0.9, ge=0, lt=1, description="Weight of the past gradients; not BatchNorm's.")
    weight_decay: float = Field(default=5e-4, ge=0, description="Of weights; scales, shifts and biases are spared.")
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="Probability spread over all classes.")
    warmup_fraction: float = Field(default=0.3, gt=0, lt=1, description="Of all steps, until the peak learning rate.")
    patience: int | None = Field(
        default=None, gt=0, description="Stop after so many epochs without a better validation result; null is never."
    )
    clip_norm: float | None = Field(default=None, gt=0, description="Largest norm of the gradient; null is no limit.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Of the arithmetic; weights are fp32."
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Of the first weights, the order of rows, and dropout.")

    @property
    def peak_lr(self) -> float:
        """The peak learning rate: the one given, or the optimizer's default."""
        return PEAK_LR[self.optimizer] if self.lr is None else self.lr


def warn_of_batch_size(rows: int) -> None:
    """Warn if BatchNorm's statistics, or the training, suffer from so many rows in a batch."""
    if rows < FEWEST_ROWS:
        warnings.warn(
            f"BatchNorm takes its statistics from {rows} rows: under {FEWEST_ROWS} they are noisy and the running ones "
            "fit inference less well (Wu & He 2018).",
            TrainingWarning,
            stacklevel=3,
        )
    if rows > MOST_ROWS:
        warnings.warn(
            f"BatchNorm takes its statistics from {rows} rows: over {MOST_ROWS} the noise that regularises is gone and "
            "networks tend to generalise worse (Keskar et al. 2017).",
            TrainingWarning,
            stacklevel=3,
        )
