"""What a source is: a run folder, a bundle, an ONNX file, or a network or factory of the user's own."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold._shared.argument_checks import OPTIONS, PATH, Kind, check, describe
from normfold._shared.paths import AnyPath
from normfold._shared.sources.bundle import BundlePlace, find_bundle
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn

MAX_INPUT_VALUES = 2**28
"""In one sample of a factory's network, a GiB of float32: more is a typo, and would fill the memory."""

WEIGHTS_ENDINGS = frozenset({".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar"})
"""Endings of files that hold weights and no network."""

SOURCE = Kind(
    "a run folder, a bundle, an .onnx file, a module:factory or a torch network",
    lambda value: hasattr(value, "named_modules") and not isinstance(value, type),
)


@dataclass(frozen=True)
class Source:
    """The source and the arguments that say how to read it, as given.

    Attributes:
        text: the path of a run folder or an ONNX file, the name or path of a bundle, module:factory, or the class of a
            network.
        card: a source card; None for the bundle's, or the one beside the model.
        weights: of a factory's network.
        weights_key: of the state dict in that file.
        strip_prefix: before the network's names in that file.
        partial: load of that file what fits.
        input_shape: of one sample, without the axis of rows; or as text, such as "3x224x224".
        arguments: of a factory, by name; or as texts NAME=VALUE.
        opset: of the exported graph.
        dynamic_size: whether height and width stay free.
        keep_statistics: whether a run folder's running statistics stay those of training.
        network: a torch network, in eval mode.
    """

    text: str
    card: Path | None = None
    weights: Path | None = None
    weights_key: str | None = None
    strip_prefix: str | None = None
    partial: bool = False
    input_shape: str | Sequence[int] | None = None
    arguments: Mapping[str, Any] | Sequence[str] = ()
    opset: int | None = None
    dynamic_size: bool = False
    keep_statistics: bool = False
    network: nn.Module | None = None

    @staticmethod
    def of(given: AnyPath | nn.Module, argument: str = "source", **arguments: Any) -> Source:
        """Return the source that a path, a module:factory or a network is; `argument` is what messages call it."""
        check(OPTIONS, arguments=arguments.get("arguments", ()))
        if isinstance(given, str | os.PathLike):
            check(PATH, **{argument: given})
            return Source(str(given), **arguments)
        check(SOURCE, **{argument: given})
        return Source(type(given).__name__, network=given, **arguments)

    @property
    def is_onnx(self) -> bool:
        """Whether it is an ONNX file. One that exists may have any name but those of weights."""
        if self.network is not None or self.text.endswith(".onnx"):
            return self.network is None
        path = Path(self.text)
        return path.suffix.lower() not in WEIGHTS_ENDINGS and _is_file(path)

    @property
    def is_factory(self) -> bool:
        """Whether it is module:factory. A path may hold a colon, so a path that exists is a path."""
        return self.network is None and ":" in self.text and not _is_there(Path(self.text))

    @property
    def bundle(self) -> BundlePlace | None:
        """The bundle that it is; None if it is none."""
        return None if self.network is not None or self.is_onnx or self.is_factory else find_bundle(self.text)

    @property
    def is_run(self) -> bool:
        """Whether it is taken as the path of a run folder: it is none of the other kinds."""
        return self.network is None and not self.is_onnx and not self.is_factory and self.bundle is None

    @property
    def kind(self) -> str:
        """The kind of source, as messages name it."""
        if self.network is not None:
            return "a torch network"
        if self.is_onnx or self.is_factory:
            return "an ONNX file" if self.is_onnx else "a module:factory"
        return "a path" if self.bundle is None else "a bundle"

    @property
    def default_name(self) -> str:
        """Return the name of the folder, file, factory or class."""
        if self.network is not None:
            return self.text
        if (bundle := self.bundle) is not None:
            return bundle.name
        return (
            self.text.rpartition(":")[2] if self.is_factory else Path(self.text).absolute().name.removesuffix(".onnx")
        )


def parse_shape(given: str | Sequence[int]) -> tuple[int, ...]:
    """Return a shape that is given as (3, 224, 224) or as "3x224x224".

    Raises:
        ArgumentError: it is not positive numbers, or holds more than MAX_INPUT_VALUES values.
    """
    if not isinstance(given, Iterable):
        raise ArgumentError(f"`input_shape` must be a shape, such as (3, 224, 224), not {describe(given)}.")
    text = given if isinstance(given, str) else "x".join(map(str, given))
    sizes = text.lower().split("x")
    if not all(re.fullmatch("0*[1-9][0-9]{0,17}", size, re.ASCII) for size in sizes):
        raise ArgumentError(f"The shape {text!r} is not positive numbers joined by x, such as 3x224x224.")
    shape = tuple(map(int, sizes))
    if math.prod(shape) > MAX_INPUT_VALUES:
        raise ArgumentError(f"The shape {text!r} has more than {MAX_INPUT_VALUES:,} values in one sample.")
    return shape


def check_arguments(source: Source) -> None:
    """Check that each argument goes with this kind of source.

    Raises:
        ArgumentError: naming the first that does not.
    """
    given = {
        "`weights`": source.weights is not None,
        "A shape in `input_shape`": source.input_shape is not None and source.network is None,
        "`arguments`": bool(source.arguments),
    }
    for name, is_given in given.items():
        if is_given and not source.is_factory:
            raise ArgumentError(f"{name} goes with module:factory; {source.text!r} is {source.kind}.")
    if source.weights is None and (source.weights_key is not None or source.strip_prefix is not None or source.partial):
        raise ArgumentError("`weights_key`, `strip_prefix` and `partial` say how `weights` are read; give these too.")
    if source.keep_statistics and not source.is_run:
        raise ArgumentError("`keep_statistics` goes with a run folder: nothing else comes with its training data.")
    if (source.is_onnx or source.bundle is not None) and (source.opset is not None or source.dynamic_size):
        raise ArgumentError("`opset` and `dynamic_size` are for exporting from torch; an ONNX file keeps its own.")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # for example a name that is too long for the file system
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
