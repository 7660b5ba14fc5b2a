"""Faults that the parameters of a BatchNorm show by themselves. Each threshold has its reason beside it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normfold.contract.audit.findings import Finding, NormLayer, Severity

LARGE_GAIN = 100.0
"""Of a channel whose variance is less than epsilon, so nearly constant in training: an input off by a hundredth then
moves the output by one, which is what a fresh BatchNorm gives a whole standard deviation. With a small scale, or an
epsilon of 1e-3 (a gain of 32 times the scale at most), such a channel is harmless, and common in trained networks."""

DEAD_SCALE = 1e-3
"""The scale is the output's standard deviation; that of a fresh BatchNorm is 1. A thousandth of it is lost beside the
other channels in what the next layer sums up."""

MANY_DEAD = 0.5
"""Share of a layer's channels. A few dead ones are pruning for free; with half of them the layer is not what it was
built to be."""

SMALLEST_EPSILON, LARGEST_EPSILON = 1e-6, 1e-2
"""Frameworks' defaults and published networks lie between 1e-5 (torch, ONNX) and 1e-3 (Keras, MobileNet, EfficientNet);
a factor of ten is left on either side. Less does not bound the gain of a constant channel (1000 at 1e-6), more is felt
by channels of ordinary variance."""


def check_layer(layer: NormLayer) -> Iterator[Finding]:
    """Yield what is wrong with one layer's parameters."""
    channels = len(layer.scale)
    arrays = layer.scale, layer.shift, layer.running_mean, layer.running_var
    finite = np.isfinite(np.stack([*arrays, layer.gain])).all(axis=0)
    if not finite.all():
        yield Finding(
            Severity.ERROR,
            "not-finite",
            layer.name,
            f"{_of(int(np.sum(~finite)), channels)}: a parameter is NaN or infinite, or a variance negative",
            "Go back to a checkpoint from before training diverged; if only statistics are hurt, export mends them.",
        )
    if never_set(layer):
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
            "Remove these channels or raise epsilon: what was constant in training is blown up when it first varies.",
        )
    if dead.any():
        many = dead.sum() >= MANY_DEAD * channels
        yield Finding(
            Severity.WARNING if many else Severity.INFO,
            "dead-channels",
            layer.name,
            f"{_of(int(dead.sum()), channels)}: |scale| below {DEAD_SCALE:g}",
            "Prune these channels: whatever goes in, their shift comes out."
            if not many
            else "Look for a learning rate, or a weight decay of scales, that is too high: much of this layer is off.",
        )
    if not SMALLEST_EPSILON <= layer.epsilon <= LARGEST_EPSILON:
        yield Finding(
            Severity.WARNING,
            "epsilon-unusual",
            layer.name,
            f"epsilon {layer.epsilon:.3g}; usual is 1e-5 (torch, ONNX) to 1e-3 (Keras)",
            "Compare it with the epsilon of the network in which the weights were trained.",
        )


def never_set(layer: NormLayer) -> bool:
    """Whether the statistics are those of a layer that never saw a batch: mean 0 and variance 1 throughout."""
    return not layer.running_mean.any() and bool(np.all(layer.running_var == 1))


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole} channel{'s' * (whole > 1)}"
