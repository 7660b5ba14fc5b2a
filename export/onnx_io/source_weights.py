"""The external weights of a model that is read while another is written."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from normfold.export.errors import ModelFileError
from normfold.export.onnx_io.model_file import external_tensors


def keep_source_weights(source: Path, target: Path, model: ir.Model) -> None:
    """Check that no weights of the source are overwritten, unless the source itself is replaced too.

    Raises:
        ModelFileError: the target or its weights would go where the source keeps its own.
    """
    written = {target.resolve(), target.with_name(f"{target.name}.data").resolve()}
    kept = {Path(tensor.path).resolve() for tensor in external_tensors(model)}
    if written & kept and source.resolve() != target.resolve():
        raise ModelFileError(target, f"would overwrite the weights of {str(source)!r}; choose another name.")
