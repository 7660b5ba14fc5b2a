"""Training settings: every setting that changes the result, as a record that is written to the run folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from normfold.models.errors import TrainingWarning

STATE_PATH = Path("resume") / "state.safetensors"
"""State from which a run is resumed, in the run folder. It is defined here, since this module does not import torch."""

MIN_USUAL_BATCH_ROWS = 32
"""Rows per batch below which BatchNorm's statistics are noisy: Wu & He 2018, arXiv:1803.08494, figure 1."""

MAX_USUAL_BATCH_ROWS = 256
"""Rows per batch above which networks generalise worse for the same epochs: Keskar et al. 2017, arXiv:1609.04836."""

WARMUP = {"one-cycle": 0.3, "cosine": 0.0, "step": 0.0, "constant": 0.0}
"""Default fraction of the steps before the peak learning rate, by schedule."""

PEAK_LR = {"adamw": 5e-3, "sgd": 0.1}
"""Default peak learning rate by optimizer."""

_LONG_NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""Names of precisions as other commands take them, to those of the run folder."""


def _short_name(value: object) -> object:
    return _LONG_NAMES.get(value, value) if isinstance(value, str) else value


class TrainConfig(BaseModel):
    """Settings of one training run."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=20, gt=0, le=1_000_000, description="Passes over the training split.")
    batch_size: int = Field(default=64, ge=2, description="Rows per step, over all processes together.")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="sgd has Nesterov momentum.")
    lr: float | None = Field(
        default=None, gt=0, le=1e30, description="Peak learning rate; null is 0.005 for adamw, 0.1 for sgd."
    )
    sgd_momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of sgd; not BatchNorm's.")
    weight_decay: float = Field(
        default=5e-4, ge=0, description="Of weights; BatchNorm's scale and shift, and biases, are not decayed."
    )
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="Target probability shared by all classes.")
    warmup_fraction: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Fraction of the steps before the peak; null is 0.3 for one-cycle, 0 for other schedules.",
    )
    patience: int | None = Field(
        default=None, gt=0, description="Epochs without a better validation result before training stops; null: never."
    )
    clip_norm: float | None = Field(default=None, gt=0, description="Maximum norm of the gradient; null: unlimited.")
    freeze_bn: str | None = Field(
        default=None,
        description="Pattern of names of BatchNorm layers that keep statistics, scale and shift, * for all; "
        "null: those that the network has in eval mode.",
    )
    precision: Annotated[Literal["fp32", "bf16", "fp16"], BeforeValidator(_short_name)] = Field(
        default="fp32", description="Of the arithmetic; weights are fp32. float32, bfloat16 and float16 are accepted."
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Of initial weights, order of rows, and dropout.")
    schedule: Literal["one-cycle", "cosine", "step", "constant"] = Field(
        default="one-cycle", description="Of the learning rate, over all steps."
    )
    accumulate: int = Field(
        default=1,
        gt=0,
        le=1_000_000,
        description="Batches whose gradients make one step; BatchNorm's statistics are of each batch by itself.",
    )
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="Decay of the exponential moving average of the weights; null: none."
    )
    channels_last: bool = Field(default=False, description="Weights of convolutions in memory with channels last.")
    compile: bool = Field(default=False, description="Compile the network by torch.compile.")
    keep: int | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Number of best epochs whose weights are kept; null: none but the best.",
    )
    threads: int | None = Field(
        default=None, gt=0, le=4096, description="Of torch on CPU, in each process; null: torch's own number."
    )

    @property
    def warmup(self) -> float:
        """Fraction of the steps before the peak: `warmup_fraction`, or the schedule's default."""
        return WARMUP[self.schedule] if self.warmup_fraction is None else self.warmup_fraction

    freeze: tuple[str, ...] = Field(
        default=(),
        description="Patterns of names of parameters, or of layers around them, that are not trained; BatchNorm layers "
        "among them keep their statistics.",
    )
    freeze_epochs: int | None = Field(
        default=None,
        gt=0,
        description="Epochs after which what is frozen is trained too; null: never. Without `freeze`, everything but a "
        "new head is frozen.",
    )
    layer_decay: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Learning rate of a layer as a fraction of that of the next one; null: one rate for all.",
    )
    sync_bn: bool | None = Field(
        default=None,
        description="BatchNorm computes its statistics over the rows of all processes; null: yes on GPUs.",
    )

    loss: str | None = Field(
        default=None,
        description="module:function of the user's own loss, called with outputs and targets; null: the task's.",
    )
    metric: tuple[str, ...] | None = Field(
        default=None, description="module:function of metrics of the user's own, called with all outputs and targets."
    )
    class_weights: Literal["balanced"] | tuple[float, ...] | None = Field(
        default=None,
        description="Weight of each class or label in the loss; balanced: inverse to its number of samples; null: 1.",
    )
    sampler: Literal["balanced"] | None = Field(
        default=None, description="balanced: every class is drawn as often; null: every row once in an epoch."
    )
    threshold: float | None = Field(
        default=None, gt=0, lt=1, description="For multi-label: probability from which a label is given; null is 0.5."
    )

    @property
    def peak_lr(self) -> float:
        """Peak learning rate: `lr`, or the optimizer's default."""
        return PEAK_LR[self.optimizer] if self.lr is None else self.lr


def warn_about_batch_size(rows: int) -> None:
    """Warn if a batch has too few rows for BatchNorm's statistics, or too many to generalise well.

    Args:
        rows: number of rows over which BatchNorm computes its statistics.

    Warns:
        TrainingWarning: fewer than 32, or more than 256.
    """
    if rows < MIN_USUAL_BATCH_ROWS:
        warnings.warn(
            f"BatchNorm computes its statistics over {rows} rows: with fewer than {MIN_USUAL_BATCH_ROWS} they are "
            "noisy, and the running statistics suit inference less well (Wu & He 2018).",
            TrainingWarning,
            stacklevel=3,
        )
    if rows > MAX_USUAL_BATCH_ROWS:
        warnings.warn(
            f"BatchNorm computes its statistics over {rows} rows: with more than {MAX_USUAL_BATCH_ROWS} their noise no "
            "longer regularises, and networks tend to generalise worse (Keskar et al. 2017).",
            TrainingWarning,
            stacklevel=3,
        )
