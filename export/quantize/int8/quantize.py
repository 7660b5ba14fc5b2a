"""Quantise a folded network to int8: QuantizeLinear and DequantizeLinear nodes around every operator that ONNX Runtime
runs in int8, unsigned activations, signed weights with a scale for each channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.arrays import Tensor
from normfold.export.quantize.channel_statistics import ChannelStatistics
from normfold.export.quantize.int8.result import Int8Options, Int8Result


def quantize_int8(
    folded: Path,
    target: Path,
    *,
    unfolded: Path | None = None,
    statistics: Mapping[str, ChannelStatistics] | None = None,
    samples: Mapping[str, Tensor] | None = None,
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
    options: Int8Options | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Int8Result:
    """Quantise a folded network, and write the result.

    Args:
        folded: the folded network, float32.
        target: where the quantised one goes; to make it appear only when complete, give a path from
            `contract.atomic_write.atomic_path`.
        unfolded: the same network with its BatchNormalization nodes. Its own are read where `statistics` are not given.
        statistics: of the BatchNormalization nodes, by the label of the node (`channel_statistics.of_bundle`).
        samples: by input, rows first, as the folded network takes them; ranges then come from them alone.
        input_ranges: by input, least and greatest; an input without one is taken for standardised.
        options: how to quantise.
        progress: called with each step as it begins.

    Raises:
        ModelFileError: a file cannot be used.
        QuantizeError: there is nothing to quantise, or nothing to take ranges from; or the opset cannot be converted.
        SampleError: the samples are not what the network takes.
        OSError: the target cannot be written.
    """
    raise NotImplementedError
