"""Convert a float32 ONNX file to float16."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.arrays import Tensor
from normfold.export.quantize.float16.result import ChannelStatistics, Float16Result


def convert_to_float16(
    folded: Path,
    target: Path,
    *,
    keep_io: bool = True,
    statistics: Mapping[str, ChannelStatistics] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Float16Result:
    """Convert a float32 network to float16, and write it if nothing overflows.

    Args:
        folded: the float32 ONNX file.
        target: where the float16 one goes; an existing file is replaced, as a whole.
        keep_io: inputs and outputs stay float32, with a Cast at each; without it they are float16.
        statistics: of values of the network, by name of the value; `|mean| + 8 std` must stay below 65504.
        inputs: one array for each input, with samples along the first axis; random ones without it.
        progress: called with each step as it begins.

    Returns:
        The nodes that stay in float32 with their reasons, the smallest headroom, and the emulated SQNR by output.

    Raises:
        ModelFileError: the file cannot be read, or holds nothing that is computed in float32.
        ModelInputError: the inputs do not fit the network.
        Float16OverflowError: a value exceeds 65504; it names the node, the value and the magnitude.
        WriteError: the target cannot be written.
    """
    raise NotImplementedError
