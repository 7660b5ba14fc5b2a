"""The source of an export or audit: a run folder, an ONNX file, or a network or factory of the user's own."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold._shared.argument_checks import OPTIONS, PATH, Kind, check, describe
from normfold._shared.packages import require_packages
from normfold._shared.paths import AnyPath
from normfold.contract.errors import SetupError
from normfold.contract.progress import ProgressCallback
from normfold.contract.source_card import RunningStatistics, SourceCard, read_source_card
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn

MAX_INPUT_VALUES = 2**28
"""In one sample of a factory's network, a GiB of float32: more is a typo, and would fill the memory."""

SOURCE = Kind(
    "a run folder, an .onnx file, a module:factory or a torch network",
    lambda value: hasattr(value, "named_modules") and not isinstance(value, type),
)


@dataclass(frozen=True)
class Source:
    """The source and the arguments that say how to read it, as given.

    Attributes:
        text: the path of a run folder or an ONNX file, module:factory, or the class of a network.
        card: a source card; None for the one beside the model.
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
    def of(given: AnyPath | nn.Module, **arguments: Any) -> Source:
        """Return the source that a path, a module:factory or a network is."""
        check(OPTIONS, arguments=arguments.get("arguments", ()))
        if isinstance(given, str | os.PathLike):
            check(PATH, source=given)
            return Source(str(given), **arguments)
        check(SOURCE, source=given)
        return Source(type(given).__name__, network=given, **arguments)

    @property
    def is_onnx(self) -> bool:
        """Whether it is an ONNX file."""
        return self.network is None and self.text.endswith(".onnx")

    @property
    def is_factory(self) -> bool:
        """Whether it is module:factory. A path may hold a colon, so a path that exists is a path."""
        return self.network is None and ":" in self.text and not _is_there(Path(self.text))

    @property
    def is_run(self) -> bool:
        """Whether it is taken as the path of a run folder: it is none of the other kinds."""
        return self.network is None and not self.is_onnx and not self.is_factory

    @property
    def kind(self) -> str:
        """The kind of source, as messages name it."""
        if self.network is not None:
            return "a torch network"
        return "an ONNX file" if self.is_onnx else "a module:factory" if self.is_factory else "a path"

    @property
    def default_name(self) -> str:
        """Return the name of the folder, file, factory or class."""
        if self.network is not None:
            return self.text
        return (
            self.text.rpartition(":")[2] if self.is_factory else Path(self.text).absolute().name.removesuffix(".onnx")
        )


@dataclass(frozen=True)
class Resolved:
    """The unfolded ONNX file of a source, and what is known of it.

    Attributes:
        path: of the file.
        card: its source card.
        kept_statistics: why the running statistics are those of training; None where they were recalibrated. It names
            an argument in back quotes.
    """

    path: Path
    card: SourceCard
    kept_statistics: str | None


def resolve(source: Source, folder: Path, progress: ProgressCallback) -> Resolved:
    """Return the unfolded ONNX file of a source, written to `folder` if need be, and its card.

    The statistics of a run folder are recalibrated over its training data, unless `keep_statistics` is set.

    Raises:
        ArgumentError: there is no such source, or an option that does not go with it.
        SetupError: `folder` cannot be written.
        NormfoldError: it cannot be read or exported.
    """
    check_arguments(source)
    if source.is_onnx:
        path = Path(source.text)
        card = read_card(path, source.card)
        return Resolved(path, card, None if card.running_statistics else "an ONNX file has no training data")
    require_torch_source(source)
    require_packages("torch", "onnxscript", extra="train", needed_for="normfold export from a torch network")
    target = folder / "unfolded.onnx"
    record, kept = None, None
    try:
        if not source.is_run:
            progress("tracing the network")
            _network_to_onnx(source, target)
            kept = f"{source.kind} has no training data"
        else:
            record, kept = _checkpoint_to_onnx(source, target, progress)
    except OSError as error:
        raise SetupError(
            f"The unfolded model cannot be written to {str(folder)!r}: {error.strerror or error}."
        ) from None
    card = read_source_card(source.card or target.with_suffix(".json"))
    return Resolved(target, card.model_copy(update={"running_statistics": record}), kept)


def _checkpoint_to_onnx(
    source: Source, target: Path, progress: ProgressCallback
) -> tuple[RunningStatistics | None, str | None]:
    """Write the network of a run folder; return the record of its recalibration, and why the statistics were kept."""
    from normfold.models.batchnorm.recalibrate_run import RecalibratedRun, recalibrate_run
    from normfold.models.onnx.to_onnx import OPSET, checkpoint_to_onnx
    from normfold.models.training.checkpoint import load_checkpoint

    folder = Path(source.text)
    if source.keep_statistics:
        network = RecalibratedRun(load_checkpoint(folder), None, "`keep_statistics`")
    else:
        network = recalibrate_run(folder, progress)
    progress("tracing the network")
    checkpoint_to_onnx(network.checkpoint, target, opset=source.opset or OPSET, dynamic_size=source.dynamic_size)
    return network.record, network.note


def require_torch_source(source: Source) -> None:
    """Make sure that what is taken as a run folder is a folder.

    Raises:
        ArgumentError: it is none.
    """
    if source.is_run and not _is_folder(Path(source.text)):
        raise ArgumentError(
            f"{source.text!r} is not a run folder, an .onnx file or a module:factory; normfold train makes run folders."
        )


def build_network(source: Source, shape: tuple[int, ...], classes: int | None = None) -> nn.Module:
    """Return a network as it was given, or that of a module:factory: in eval mode where weights are given, otherwise as
    it was returned.

    Raises:
        ArchitectureError, WeightsError: it cannot be built, or the weights are not its own.
    """
    if source.network is not None:
        return source.network
    from normfold.models.architectures.registry import Architecture, build, parse_options
    from normfold.models.weight_files.load import WeightsFile, load_weights

    given = source.arguments
    options = dict(given) if isinstance(given, Mapping) else parse_options(given)
    network = build(Architecture(name=source.text, options=options, input_shape=shape, classes=classes))
    if source.weights is not None:
        load_weights(network, WeightsFile(source.weights, source.weights_key, source.strip_prefix, source.partial))
        network.eval()
    return network


def _network_to_onnx(source: Source, target: Path) -> None:
    from normfold.models.errors import TrainModeError
    from normfold.models.onnx.to_onnx import OPSET, InputSpec, to_onnx

    if source.input_shape is None:
        raise ArgumentError(
            f"{source.kind.capitalize()} needs `input_shape`, the shape of one sample, such as 3x224x224."
        )
    shape = parse_shape(source.input_shape)
    network = build_network(source, shape)
    inputs = {"input": InputSpec(shape)}
    try:
        to_onnx(network, target, inputs, opset=source.opset or OPSET, dynamic_size=source.dynamic_size)
    except TrainModeError as error:
        if source.network is not None:
            raise
        raise ArgumentError(
            f"{source.text!r} returned its network in train mode (layer {error.layers[0]!r}, for one), and no trained "
            "weights; give `weights`, or let it load them itself and return network.eval()."
        ) from None


def read_card(model: Path, given: Path | None) -> SourceCard:
    """Return the card that is given, or else the one beside the model, or else an empty one.

    Raises:
        ManifestError: it cannot be read.
    """
    beside = model.with_suffix(".json")
    path = given or (beside if beside.is_file() else None)
    return read_source_card(path) if path else SourceCard()


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


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # for example a name that is too long for the file system
        return False


def _is_folder(path: Path) -> bool:
    return _is_there(path) and path.is_dir()


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
    if source.is_onnx and (source.opset is not None or source.dynamic_size):
        raise ArgumentError("`opset` and `dynamic_size` are for exporting from torch; an ONNX file keeps its own.")
