"""The network before its fold, of whose BatchNormalization nodes ranges come."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.export.fold.fold import fold
from normfold.export.graph.inference import infer_shapes
from normfold.export.onnx_io.model_file import load_model
from normfold.export.quantize.channel_statistics import ChannelStatistics, of_report
from normfold.export.quantize.int8.ranges.run_values import float_values


def load_unfolded(path: Path | None) -> ir.Model | None:
    """Return the network before its fold, prepared to be run from its BatchNormalization nodes on."""
    if path is None:
        return None
    model = load_model(path)
    ir.external_data.load_to_model(model)
    common_passes.InlinePass()(model)
    infer_shapes(model)
    return model


def own_statistics(folded: Path, unfolded: Path | None) -> dict[str, ChannelStatistics]:
    """Return the statistics of the network before its fold; it is folded again to know the values that hold them."""
    if unfolded is None:
        return {}
    names = {value.name for value in float_values(load_model(folded).graph)}
    found: dict[str, ChannelStatistics] = {}
    for merging in (True, False):
        model = load_model(unfolded)
        found = of_report(fold(model, merging=merging))
        if {value.name for value in float_values(model.graph)} == names:
            break
    return found
