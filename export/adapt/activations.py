"""A network run piece by piece over all samples, so that each piece may depend on all that the pieces before it gave.

What the rest of the network still needs waits in files, one for each value and chunk of samples: memory holds one chunk
of one piece, the disk the values that are alive, and no node runs twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from normfold.export.adapt.samples import Samples
from normfold.export.arrays import Tensor
from normfold.export.errors import ModelFileError, NotAdaptableError
from normfold.export.onnx_io.model_file import save_model
from normfold.export.verify.runner import Inputs, Runner

CHUNK_BYTES = 2**21
"""Of the network's inputs: what it makes of them may be some twenty times as large."""
MAX_CHUNK_ROWS = 256


def chunk_rows(inputs: Inputs) -> int:
    """Return how many samples to run at once, from the tensors of one."""
    row_bytes = max(1, sum(array.nbytes for array in inputs.values()))
    return max(1, min(MAX_CHUNK_ROWS, CHUNK_BYTES // row_bytes))


class Activations:
    """The values that are alive, for all samples.

    Args:
        samples: give the graph's inputs.
        rows: in one chunk.
        folder: where the values wait; it must exist.
    """

    def __init__(self, samples: Samples, rows: int, folder: Path) -> None:
        self._folder = folder
        self._starts = range(0, samples.count, rows)
        self._sizes = [min(rows, samples.count - start) for start in self._starts]
        self._numbers: dict[str, int] = {}
        self._made = 0
        for chunk, (start, size) in enumerate(zip(self._starts, self._sizes, strict=True)):
            self._put(chunk, samples.read(start, start + size))

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def chunks(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of samples and the value, chunk by chunk."""
        for chunk, size in enumerate(self._sizes):
            yield size, self._get(chunk, name)

    def advance(self, model: ir.Model, alive: Sequence[ir.Value]) -> None:
        """Run the nodes between the stored values and `alive`; delete the other stored values.

        Raises:
            NotAdaptableError: a value is not a tensor of known rank, or the piece cannot be run.
        """
        wanted = [value for value in alive if value.name not in self]
        if wanted:
            path = self._folder / "piece.onnx"
            save_model(self._piece(model, wanted), path)
            try:
                runner = Runner(path)
                names = [info.name for info in runner.inputs]
                for chunk in range(len(self._sizes)):
                    self._put(chunk, runner.run({name: self._get(chunk, name) for name in names}))
            except ModelFileError as error:  # of the piece, a file that no user has seen
                raise NotAdaptableError(f"The network cannot be run on these samples: it {error.problem}") from None
        self._keep({value.name for value in alive})

    def _piece(self, model: ir.Model, outputs: Sequence[ir.Value]) -> ir.Model:
        """Return a model of the nodes between the values that are there and the outputs."""
        there = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
        graph = ir.convenience.extract(model.graph, [there[name] for name in self._numbers], outputs)
        for value in list(graph.inputs):
            assert value.name is not None  # a key of the mapping
            if not value.uses() and not value.is_graph_output():
                graph.inputs.remove(value)
                continue
            array = self._get(0, value.name)
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value.shape = ir.Shape([None] * array.ndim)
        for value in graph.outputs:
            if not isinstance(value.type, ir.TensorType) or value.shape is None:
                raise NotAdaptableError(
                    f"The rank of {value.name!r}, a value inside the network, cannot be inferred: so the network "
                    "cannot be run piece by piece, as samples must."
                )
        return ir.Model(graph, ir_version=model.ir_version)

    def _put(self, chunk: int, arrays: Inputs) -> None:
        for name, array in arrays.items():
            if name not in self._numbers:
                self._numbers[name] = self._made
                self._made += 1
            np.save(self._path(chunk, name), array, allow_pickle=False)

    def _get(self, chunk: int, name: str) -> Tensor:
        array: Tensor = np.load(self._path(chunk, name), allow_pickle=False)
        return array

    def _keep(self, names: Collection[str | None]) -> None:
        for name in [name for name in self._numbers if name not in names]:
            for chunk in range(len(self._sizes)):
                self._path(chunk, name).unlink()
            del self._numbers[name]

    def _path(self, chunk: int, name: str) -> Path:
        return self._folder / f"{self._numbers[name]}.{chunk}.npy"
