"""config.pbtxt, Triton's configuration of a model, in protobuf's text format.

protobuf's own parser reads it against `model_config.proto`, which describes the fields that have a counterpart here.
Every release of Triton has more of them; those are taken out before, and named, so that none is dropped in silence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor

from normfold.export.errors import TritonError
from normfold.export.triton.model_config_pb2 import ModelConfig
from normfold.export.triton.text_fields import blank_out, find_unknown_fields

CONFIG_NAME = "config.pbtxt"


@dataclass(frozen=True, eq=False)
class TritonConfig:
    """What a config.pbtxt says.

    Attributes:
        message: the fields that are described in model_config.proto.
        unread: paths of the others, as "optimization" or "input.format", each once, in the order of the file.
    """

    message: ModelConfig = field(default_factory=ModelConfig)
    unread: tuple[str, ...] = ()


def read_config(path: Path) -> TritonConfig:
    """Read a config.pbtxt.

    Raises:
        TritonError: it cannot be read, is not in protobuf's text format, or a field has a wrong type.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TritonError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise TritonError(f"{str(path)!r} is not UTF-8 text.") from None
    message = ModelConfig()
    try:
        unknown = find_unknown_fields(text, cast("Descriptor", ModelConfig.DESCRIPTOR))
        text_format.Parse(blank_out(text, unknown), message)
    except (text_format.ParseError, ValueError) as error:
        raise TritonError(f"{str(path)!r} is not a model configuration: {error}.") from None
    except RecursionError:
        raise TritonError(f"{str(path)!r} is nested too deeply.") from None
    return TritonConfig(message, tuple(dict.fromkeys(each.path for each in unknown)))


def config_text(message: ModelConfig) -> str:
    """Return the text of a config.pbtxt."""
    return text_format.MessageToString(message, as_utf8=True)
