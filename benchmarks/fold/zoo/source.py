"""Write the unfolded file of one network, in a process of its own.

python -m benchmarks.fold.zoo.source timm resnet18 3x64x64 source.onnx
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from benchmarks.fold.zoo.networks import Network

SEED = 0


def write_source(network: Network, target: Path) -> None:
    """Build a network with seeded weights and export it, without the exporter's optimiser."""
    if network.package == "keras":
        write_keras(network, target)
    else:
        write_torch(network, target)


def write_torch(network: Network, target: Path) -> None:
    """Export a network of torch, with fixed shapes."""
    import torch

    from benchmarks.fold.zoo.packages import build
    from benchmarks.fold.zoo.statistics import randomise

    module = build(network.package, network.name, network.row, SEED)
    rows = torch.randn(network.shape)
    randomise(module, rows)
    with torch.no_grad():
        program = torch.onnx.export(module, (rows,), dynamo=True, optimize=False, verbose=False)
    assert program is not None
    program.save(target)


def write_keras(network: Network, target: Path) -> None:
    """Export a network of Keras' applications, with fixed shapes, by its own command, with torch behind it."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    import numpy as np

    keras.utils.set_random_seed(SEED)
    model = getattr(keras.applications, network.name)(weights=None, input_shape=network.row)
    rng = np.random.default_rng(SEED)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(0.1 * rng.standard_normal(layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.moving_variance.shape))
            if layer.scale:
                sign = np.where(rng.random(layer.gamma.shape) < 0.1, -1, 1)
                layer.gamma.assign(sign * rng.uniform(0.5, 1.5, layer.gamma.shape))
            if layer.center:
                layer.beta.assign(0.2 * rng.standard_normal(layer.beta.shape))
    signature = [keras.InputSpec(shape=network.shape, dtype="float32")]
    model.export(str(target), format="onnx", input_signature=signature, verbose=False)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write_source(Network.of(" ".join(sys.argv[1:4])), Path(sys.argv[4]))
