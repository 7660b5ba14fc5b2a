"""Provider options that may make a network faster; each is tried over those kept before it.

    prefer_nhwc       CUDA: convolutions in the layout that tensor cores read; ONNX Runtime transposes at the borders
    use_tf32          CUDA: float32 is multiplied with 10 bits of mantissa; ONNX Runtime's own default is 1
    trt_fp16_enable   TensorRT: kernels in float16, for a network that is in float16

The names are ONNX Runtime's. A version that does not know one rejects it, and the candidate with it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from normfold.contract.precision.record import PrecisionKind
from normfold.service.runtime.providers.session_request import Options

TF32 = "use_tf32"


@dataclass(frozen=True)
class Candidate:
    """Options of one provider, for networks of some precisions."""

    provider: str
    options: Options
    precisions: Collection[PrecisionKind] = tuple(PrecisionKind)


CANDIDATES = (
    Candidate("cuda", {"prefer_nhwc": "1"}),
    Candidate("cuda", {TF32: "1"}, (PrecisionKind.FLOAT32, PrecisionKind.INT8)),
    Candidate("tensorrt", {"trt_fp16_enable": "True"}, (PrecisionKind.FLOAT16,)),
)


def find_candidates(
    provider: str, precision: PrecisionKind, users_options: Collection[str], tf32: str
) -> list[Options]:
    """Return the options to try, in order.

    Args:
        provider: short name of the one that runs the network.
        precision: of the network.
        users_options: names of those that the user has set; they are not tried.
        tf32: `auto`, `on` or `off`; only `auto` is tried.
    """
    fixed = {*users_options} | (set() if tf32 == "auto" else {TF32})
    return [
        candidate.options
        for candidate in CANDIDATES
        if candidate.provider == provider and precision in candidate.precisions and not fixed & candidate.options.keys()
    ]
