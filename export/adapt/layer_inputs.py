"""What samples give to each of some nodes, in their order: what is changed at one node counts for all behind it."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import onnx_ir as ir

from normfold.contract.atomic_write import temporary_folder
from normfold.export.adapt.activations import Activations, chunk_rows
from normfold.export.adapt.liveness import alive_before
from normfold.export.adapt.samples import Samples
from normfold.export.errors import SampleError


def layer_inputs(
    model: ir.Model, nodes: Sequence[ir.Node], samples: Samples, batchable: bool
) -> Generator[Activations, None, None]:
    """Yield for each node the values that are alive before it, its own inputs among them, over all samples.

    The network runs piece by piece, from one of the nodes to the next. Once the values before a node were yielded, the
    caller may change its constants.

    Args:
        model: shapes are inferred, functions inlined.
        nodes: of the main graph, in its order.
        samples: what the network takes.
        batchable: rows are independent; others run one by one, as a server runs them.

    Raises:
        SampleError: the samples cannot be cut into batches of the size that the model fixes.
        NotAdaptableError: the model cannot be run on them.
        WriteError: the disk has no space for the activations.
    """
    rows = _rows(model, samples, batchable)
    with temporary_folder() as folder:
        activations = Activations(samples, rows, folder)
        for node in nodes:
            activations.advance(model, alive_before(node, nodes))
            yield activations


def _rows(model: ir.Model, samples: Samples, batchable: bool) -> int:
    """Return how many samples to run at once."""
    sizes = {value.shape[0] for value in model.graph.inputs if not value.is_initializer() and value.shape}
    fixed = [size for size in sizes if isinstance(size, int)]
    if not fixed:
        return chunk_rows(samples.read(0, 1)) if batchable else 1
    if samples.count % fixed[0]:
        raise SampleError(f"The network takes batches of {fixed[0]} samples; {samples.count} are not whole batches.")
    return fixed[0]
