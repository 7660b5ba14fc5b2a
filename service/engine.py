"""One loaded version of a model, and how tensors go through it.

Routes call `Model.infer` and know neither threads nor ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contract.manifest import Manifest
from service.errors import RunError, WireError
from service.session import Array, Session
from service.workers import Workers


@dataclass(frozen=True)
class Model:
    """A version of a model that is loaded, warmed and can answer."""

    manifest: Manifest
    session: Session
    workers: Workers

    @property
    def name(self) -> str:
        """The folder's name, which clients address."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """The folder's version."""
        return self.manifest.version

    async def infer(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run tensors through the network, off the event loop.

        Args:
            tensors: one array per input, in the datatypes and shapes that the manifest declares.
            outputs: names of those to compute.

        Returns:
            Output name to array, in the order of `outputs`.

        Raises:
            WireError: inputs of a batchable model disagree in their number of rows, or ONNX Runtime refused them.
            RunError: the network failed, or gave another number of rows than it got.
        """
        rows = self._count_rows(tensors)
        results = dict(zip(outputs, await self.workers.call(self.session.run, tensors, outputs), strict=True))
        for name, array in results.items():
            if rows is not None and array.shape[:1] != (rows,):
                raise RunError(f"Output {name!r} has the shape {list(array.shape)} for {rows} rows.")
        return results

    def _count_rows(self, tensors: Mapping[str, Array]) -> int | None:
        """Return the number of rows, which all inputs of a batchable model share; None if rows mean nothing."""
        if not self.manifest.batchable:
            return None
        counts = {name: array.shape[0] for name, array in tensors.items()}
        if len(set(counts.values())) > 1:
            raise WireError(f"The inputs differ in their number of rows: {counts}.")
        return next(iter(counts.values()), None)
