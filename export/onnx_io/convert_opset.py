"""Files of opsets that ONNX Runtime no longer promises to run, through onnx's version converter."""

from __future__ import annotations

import onnx
from onnx import version_converter


def converted(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a model in another opset; its own stays as it is.

    Raises:
        Exception: the converter knows no way for an operator; its message names it.
    """
    result = version_converter.convert_version(proto, opset)
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(result, field, getattr(proto, field))
    del result.metadata_props[:]
    result.metadata_props.extend(proto.metadata_props)
    return result
