"""Checks of a BatchNorm's parameters. Each threshold has its reason beside it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normfold.contract.audit.findings import BatchNormLayer, Finding, Severity

LARGE_GAIN = 100.0
"""Gain above which a channel with a variance below epsilon, nearly constant in training, is a finding. An input change
of 0.01 then changes the output by 1, as a whole standard deviation does after an untrained BatchNorm. With a small
scale, or an epsilon of 1e-3 (a gain of at most 32 times the scale), such channels are harmless, and common in trained
networks."""

DEAD_SCALE = 1e-3
"""|scale| below which a channel is dead. The scale is the standard deviation of the output, and 1 in an untrained
BatchNorm; a thousandth of that is negligible beside the other channels in the sums of the next layer."""

MANY_DEAD = 0.5
"""Fraction of dead channels from which they are a warning. A few can be pruned without loss; with half of them, the
layer has lost half of its width."""

MIN_USUAL_EPSILON, MAX_USUAL_EPSILON = 1e-6, 1e-2
"""Defaults of frameworks and published networks lie between 1e-5 (torch, ONNX) and 1e-3 (Keras, MobileNet,
EfficientNet); these limits are a factor of ten wider. A smaller epsilon hardly bounds the gain of a constant channel
(1000 times the scale at 1e-6); a larger one changes channels of ordinary variance."""


def check_layer(layer: BatchNormLayer) -> Iterator[Finding]:
    """Yield the findings about one layer's parameters."""
    channels = len(layer.scale)
    arrays = layer.scale, layer.shift, layer.running_mean, layer.running_var
    finite = np.isfinite(np.stack([*arrays, layer.gain])).all(axis=0)
    if not finite.all():
        yield Finding(
            Severity.ERROR,
            "not-finite",
            layer.name,
            f"{_of(int(np.sum(~finite)), channels)}: a parameter is NaN or infinite, or a variance negative",
            "Use a checkpoint from before training diverged; if only running statistics are affected, normfold export "
            "of a run folder recalibrates them.",
        )
    if has_initial_statistics(layer):
        yield Finding(
            Severity.ERROR,
            "statistics-unset",
            layer.name,
            f"running mean 0 and variance 1 in all {channels} channels",
            "Train with this layer in train mode, or load its running statistics with the weights.",
        )
        return
    gain = np.abs(layer.gain)
    with np.errstate(invalid="ignore"):
        steep = finite & (layer.running_var < layer.epsilon) & (gain >= LARGE_GAIN)
        dead = finite & (np.abs(layer.scale) < DEAD_SCALE)
    if steep.any():
        yield Finding(
            Severity.WARNING,
            "variance-near-zero",
            layer.name,
            f"{_of(int(steep.sum()), channels)}: variance down to {layer.running_var[steep].min():.2g}, "
            f"gain up to {gain[steep].max():.3g}",
            "Remove these channels or raise epsilon: an input that hardly varied in training is amplified.",
        )
    if dead.any():
        many = dead.sum() >= MANY_DEAD * channels
        yield Finding(
            Severity.WARNING if many else Severity.INFO,
            "dead-channels",
            layer.name,
            f"{_of(int(dead.sum()), channels)}: |scale| below {DEAD_SCALE:g}",
            "Prune these channels: their output is their shift, whatever the input."
            if not many
            else "Look for a learning rate, or a weight decay of scales, that is too high: most of this layer is dead.",
        )
    if not MIN_USUAL_EPSILON <= layer.epsilon <= MAX_USUAL_EPSILON:
        yield Finding(
            Severity.WARNING,
            "epsilon-unusual",
            layer.name,
            f"epsilon {layer.epsilon:.3g}; usual is 1e-5 (torch, ONNX) to 1e-3 (Keras)",
            "Compare it with the epsilon of the framework in which the network was trained.",
        )


def has_initial_statistics(layer: BatchNormLayer) -> bool:
    """Return whether the running statistics are those of an untrained layer: mean 0 and variance 1 in all channels."""
    return not layer.running_mean.any() and bool(np.all(layer.running_var == 1))


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole} channel{'s' * (whole > 1)}"
