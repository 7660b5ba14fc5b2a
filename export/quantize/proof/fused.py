"""The same quantised file run with all of ONNX Runtime's optimisations and with none: kernels compute what it says.

With all optimisations, a layer between DequantizeLinear and QuantizeLinear becomes one integer kernel. Without them,
weights and activations are made float32 first. On x86 processors without VNNI, integer kernels add pairs of products in
16 bits, which saturate where weights are large; the pair-aware weight scales rule that out.
"""

from __future__ import annotations

from collections.abc import Sequence

from normfold.contract.precision.signal_to_noise import SignalToNoise
from normfold.export.quantize.proof.outputs import Run
from normfold.export.quantize.proof.rows import ProofRows
from normfold.export.verify.runner import ValueInfo

MAX_ROWS = 64
"""Rows that are compared: a saturated layer shows on any."""


def fused_signal_to_noise(
    fused: Run, unfused: Run, rows: ProofRows, infos: Sequence[ValueInfo], batchable: bool
) -> float:
    """Return the lowest signal to noise ratio of the outputs, in dB, of a file run with and without optimisations.

    Args:
        fused: runs the file with all optimisations.
        unfused: runs it with none.
        rows: as the file takes them; the first MAX_ROWS count.
        infos: the file's inputs.
        batchable: rows are independent.

    Raises:
        ModelFileError: a run fails.
    """
    found: dict[str, SignalToNoise] = {}
    for place, inputs in rows.batches(infos, batchable):
        wanted, got = unfused(inputs), fused(inputs)
        for name, array in wanted.items():
            if array.dtype.kind == "f":
                found.setdefault(name, SignalToNoise()).add(array, got[name])
        if place.stop >= MAX_ROWS:
            break
    return min((each.db for each in found.values()), default=SignalToNoise().db)
