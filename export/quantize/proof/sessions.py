"""Run functions of ONNX files on one thread of the CPU: with all of ONNX Runtime's optimisations, or with none."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from normfold.contract.errors import SetupError
from normfold.export.errors import ModelFileError
from normfold.export.onnx_io.model_file import load_model
from normfold.export.quantize.proof.outputs import Run
from normfold.export.verify.runner import Inputs, Outputs, in_one_line, input_infos, start_onnxruntime


def open_network(path: Path, optimised: bool, model: ir.Model | None = None) -> Run:
    """Return the run function of a file.

    Its inputs are cast to the dtypes that the file takes: those of a float16 network are float32's.

    Args:
        path: of the file.
        optimised: with all optimisations; without any otherwise.
        model: what the file holds; read without it.

    Raises:
        ModelFileError: ONNX Runtime cannot open it on the CPU; the run function raises it where a run fails.
    """
    model = model or load_model(path)
    try:
        start = start_onnxruntime(path, model, optimised)
    except SetupError:
        raise
    except Exception as error:  # noqa: BLE001 -- ONNX Runtime raises many kinds for a model that it does not know
        raise ModelFileError(path, f"cannot be run by ONNX Runtime on the CPU: {in_one_line(error)}") from None
    names = [value.name or "" for value in model.graph.outputs]
    dtypes = {info.name: info.dtype.numpy() for info in input_infos(path, model)}

    def run(inputs: Inputs) -> Outputs:
        given = {name: array.astype(dtypes[name], copy=False) for name, array in inputs.items()}
        try:
            return dict(zip(names, start(names, given), strict=True))
        except Exception as error:  # noqa: BLE001 -- as above
            raise ModelFileError(path, f"failed to run: {in_one_line(error)}") from None

    return run
