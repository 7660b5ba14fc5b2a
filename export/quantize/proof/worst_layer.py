"""The value inside a network of lower precision that differs most from the same value of the float32 network.

A value that was quantised is compared behind its rounding, a QuantizeLinear and a DequantizeLinear; one of float16 has
the name that it had. Both networks run as they are written, so that every value is there to be read. Then float16 is
rounded between nodes, and computed in float32 within them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from pathlib import Path

import onnx_ir as ir

from normfold.contract.atomic_write import temporary_folder
from normfold.contract.precision.record import WorstLayer
from normfold.contract.precision.signal_to_noise import SignalToNoise
from normfold.export.graph.inference import infer_shapes
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.quantize.proof.outputs import Run
from normfold.export.quantize.proof.rows import ProofRows, fixed_batch_size
from normfold.export.quantize.proof.sessions import open_network
from normfold.export.verify.runner import input_infos

MAX_ROWS = 4
"""Rows, one at a time: all values of a network at 224 × 224 take some 100 MB a row."""


def find_worst_layer(reference: Path, quantised: Path, rows: ProofRows, changed: Collection[str]) -> WorstLayer | None:
    """Return the value with the lowest signal to noise ratio.

    Args:
        reference: the folded float32 network.
        quantised: the same in int8 or float16.
        rows: as both take them; the first MAX_ROWS count.
        changed: values that equalisation changed, which cannot be compared.

    Returns:
        None where no value is in both networks.

    Raises:
        ModelFileError: a network cannot be run.
        WriteError: the temporary folder cannot be written.
    """
    first, second = load_model(reference), load_model(quantised)
    pairs = {name: other for name, other in _common_values(first, second).items() if name not in changed}
    if not pairs:
        return None
    found = {name: SignalToNoise() for name in pairs}
    with temporary_folder() as folder:
        infos = input_infos(reference, first)
        before = _open_with_outputs(first, pairs, folder / "reference.onnx")
        after = _open_with_outputs(second, {name: name for name in pairs.values()}, folder / "quantised.onnx")
        one_by_one = ProofRows({name: array[:MAX_ROWS] if array.ndim else array for name, array in rows.inputs.items()})
        if fixed_batch_size(infos) is not None:
            one_by_one = rows
        for _, inputs in islice(one_by_one.batches(infos, batchable=False), MAX_ROWS):
            wanted, got = before(inputs), after(inputs)
            for name, other in pairs.items():
                found[name].add(wanted[name], got[other])
    name = min(found, key=lambda each: found[each].db)
    return WorstLayer(value=name, sqnr_db=found[name].db)


def _common_values(first: ir.Model, second: ir.Model) -> dict[str, str]:
    """Return the name of each value of the float32 network that is in the other too, and its name there."""
    infer_shapes(second)
    there = {value.name or "": value for node in second.graph for value in node.outputs}
    names = [node.outputs[0].name or "" for node in first.graph if node.outputs]
    if any(node.op_type == "DequantizeLinear" for node in second.graph):
        rounded = _rounded_values(second.graph)
        return {name: rounded[name] for name in names if name in rounded}
    return {name: name for name in names if name in there and there[name].dtype == ir.DataType.FLOAT16}


def _rounded_values(graph: ir.Graph) -> dict[str, str]:
    """Return the name of each value that is quantised, and of what a DequantizeLinear makes of it."""
    return {
        node.inputs[0].name or "": use.node.outputs[0].name or ""
        for node in graph
        if node.op_type == "QuantizeLinear" and node.inputs[0] is not None
        for use in node.outputs[0].uses()
        if use.node.op_type == "DequantizeLinear"
    }


def _open_with_outputs(model: ir.Model, names: Mapping[str, str], path: Path) -> Run:
    """Write a model that gives these values alone, and open it without optimisations."""
    values = {value.name: value for node in model.graph for value in node.outputs}
    del model.graph.outputs[:]
    for name in names:
        value = values[name]
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(value)
    save_model(model, path)
    return open_network(path, optimised=False, model=model)
