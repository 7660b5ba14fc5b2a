"""What others make of a folded network in int8, with samples: ONNX Runtime's quantiser, and onnxsim's."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Make = Callable[[Path, Path, Float32Array], None]


def onnxruntime_static(activation: str | None = None, **options: object) -> Make:
    """Return a function that writes what `quantize_static` makes of a folded file.

    Args:
        activation: name of a `QuantType`; the default without it.
        options: of `quantize_static`.
    """

    def make(folded: Path, target: Path, samples: Float32Array) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self._rows = iter(samples)

            def get_next(self) -> dict[str, Float32Array] | None:
                row = next(self._rows, None)
                return None if row is None else {"input": row[None]}

        chosen = {} if activation is None else {"activation_type": QuantType[activation]}
        quantize_static(folded, target, Reader(), **chosen, **options)

    return make


def onnxsim_static(folded: Path, target: Path, samples: Float32Array) -> None:
    """Write what `onnxsim.quantize_static` makes of a folded file: u8 activations, s8 weights for each channel."""
    import onnx
    import onnxsim

    onnx.save(onnxsim.quantize_static(onnx.load(folded), [{"input": row[None]} for row in samples]), target)


def has_onnxsim() -> bool:
    """Return whether onnxsim is installed: it comes with the extra `bench`."""
    return find_spec("onnxsim") is not None
