"""What `normfold export` is given: a run folder, an ONNX file, or a factory of the user's own."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from normfold.cli.packages import require_packages
from normfold.contract.errors import InputError, SetupError
from normfold.contract.progress import ProgressCallback
from normfold.contract.source_card import RunningStatistics, SourceCard, read_source_card

if TYPE_CHECKING:
    from torch import nn

PIXELS = "uint8"
"""What --input says for a network that shall take 8-bit pixels."""

MAX_INPUT_VALUES = 2**28
"""In one sample of a factory's network, a GiB of float32: more is a slip of the pen, and would fill the memory."""


class SourceError(InputError):
    """The source, or an option given with it, cannot be used."""


@dataclass(frozen=True)
class Source:
    """The source and the options that say how to read it, as given."""

    text: str
    card: Path | None = None
    weights: Path | None = None
    input_shape: str | None = None
    arguments: tuple[str, ...] = ()
    opset: int | None = None
    dynamic_size: bool = False
    keep_statistics: bool = False

    @property
    def is_onnx(self) -> bool:
        """Whether it is an ONNX file."""
        return self.text.endswith(".onnx")

    @property
    def is_factory(self) -> bool:
        """Whether it is module:factory. A path may hold a colon, so a path that exists is a path."""
        return ":" in self.text and not _is_there(Path(self.text))

    @property
    def default_name(self) -> str:
        """Return the name of the folder, file or factory."""
        return (
            self.text.rpartition(":")[2] if self.is_factory else Path(self.text).absolute().name.removesuffix(".onnx")
        )


@dataclass(frozen=True)
class Resolved:
    """The unfolded ONNX file of a source, and what is known of it."""

    path: Path
    card: SourceCard
    kept_statistics: str | None
    """Why the running statistics are those of training; None where they were taken anew."""


def resolve(source: Source, folder: Path, progress: ProgressCallback) -> Resolved:
    """Return the unfolded ONNX file of a source, written to `folder` if need be, and its card.

    The statistics of a run folder are taken anew over its training data, unless `keep_statistics` says otherwise.

    Raises:
        SourceError: there is no such source, or an option that does not go with it.
        SetupError: `folder` cannot be written.
        NormfoldError: whatever reading or exporting it says.
    """
    refuse_stray_options(source)
    if source.is_onnx:
        path = Path(source.text)
        card = read_card(path, source.card)
        return Resolved(path, card, None if card.running_statistics else "an ONNX file has no training data")
    require_torch_source(source)
    require_packages("torch", "onnxscript", extra="train", needed_for="normfold export from a torch network")
    target = folder / "unfolded.onnx"
    record, kept = None, None
    try:
        if source.is_factory:
            progress("tracing the network")
            _factory_to_onnx(source, target)
            kept = "a module:factory has no training data"
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
    """Write the network of a run folder; return what taking its statistics anew came to, and why they were kept."""
    from normfold.models.batchnorm.recalibrate_run import RecalibratedRun, recalibrate_run
    from normfold.models.onnx.to_onnx import OPSET, checkpoint_to_onnx
    from normfold.models.training.checkpoint import load_checkpoint

    folder = Path(source.text)
    if source.keep_statistics:
        network = RecalibratedRun(load_checkpoint(folder), None, "--keep-statistics")
    else:
        network = recalibrate_run(folder, progress)
    progress("tracing the network")
    checkpoint_to_onnx(network.checkpoint, target, opset=source.opset or OPSET, dynamic_size=source.dynamic_size)
    return network.record, network.note


def require_torch_source(source: Source) -> None:
    """Make sure that a source which is no ONNX file is a folder or a module:factory.

    Raises:
        SourceError: it is neither.
    """
    if not source.is_factory and not _is_folder(Path(source.text)):
        raise SourceError(
            f"{source.text!r} is no run folder, no .onnx file and no module:factory; normfold train makes a run folder."
        )


def build_factory(source: Source, shape: tuple[int, ...], classes: int | None = None) -> nn.Module:
    """Return the network of a module:factory: in eval mode where weights are given, otherwise as it was returned.

    Raises:
        ArchitectureError, WeightsError: it cannot be built, or the weights are not its own.
    """
    from normfold.models.architectures.registry import Architecture, build, parse_options
    from normfold.models.architectures.weights import load_weights

    options = parse_options(source.arguments)
    network = build(Architecture(name=source.text, options=options, input_shape=shape, classes=classes))
    if source.weights is not None:
        load_weights(network, source.weights)
        network.eval()
    return network


def _factory_to_onnx(source: Source, target: Path) -> None:
    from normfold.models.errors import TrainModeError
    from normfold.models.onnx.to_onnx import OPSET, InputSpec, to_onnx

    if source.input_shape is None:
        raise SourceError("A module:factory needs --input, the shape of one sample, such as --input 3x224x224.")
    shape = parse_shape(source.input_shape)
    network = build_factory(source, shape)
    inputs = {"input": InputSpec(shape)}
    try:
        to_onnx(network, target, inputs, opset=source.opset or OPSET, dynamic_size=source.dynamic_size)
    except TrainModeError as error:
        raise SourceError(
            f"{source.text!r} returned its network in train mode (layer {error.layers[0]!r}, for one), and no trained "
            "weights; give --weights FILE, or let it load them itself and return network.eval()."
        ) from None


def read_card(model: Path, given: Path | None) -> SourceCard:
    """Return the card that is given, or else the one beside the model, or else an empty one.

    Raises:
        ManifestError: it cannot be read.
    """
    beside = model.with_suffix(".json")
    path = given or (beside if beside.is_file() else None)
    return read_source_card(path) if path else SourceCard()


def parse_input(text: str | None) -> tuple[str | None, bool]:
    """Read what --input says: the shape of one sample, uint8, or both as uint8:3x224x224.

    Returns:
        The shape, as text, if there is one; and whether the network shall take pixels.
    """
    if text is None:
        return None, False
    kind, colon, shape = text.partition(":")
    if kind == PIXELS:
        return shape if colon else None, True
    return text, False


def parse_shape(text: str) -> tuple[int, ...]:
    """Read a shape such as 3x224x224.

    Raises:
        SourceError: it is not positive numbers joined by x, or holds more than MAX_INPUT_VALUES values.
    """
    sizes = text.lower().split("x")
    if not all(re.fullmatch("0*[1-9][0-9]{0,17}", size, re.ASCII) for size in sizes):
        raise SourceError(f"The shape {text!r} is not positive numbers joined by x, such as 3x224x224.")
    shape = tuple(map(int, sizes))
    if math.prod(shape) > MAX_INPUT_VALUES:
        raise SourceError(f"The shape {text!r} has more than {MAX_INPUT_VALUES:,} values in one sample.")
    return shape


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for the file system, say
        return False


def _is_folder(path: Path) -> bool:
    return _is_there(path) and path.is_dir()


def refuse_stray_options(source: Source) -> None:
    """Refuse options that do not go with this kind of source.

    Raises:
        SourceError: naming the first.
    """
    given = {
        "--weights": source.weights is not None,
        "--input with a shape": source.input_shape is not None,
        "--arg": bool(source.arguments),
    }
    for option, is_given in given.items():
        if is_given and not source.is_factory:
            raise SourceError(f"{option} goes with module:factory; {source.text!r} is {_kind(source)}.")
    if source.keep_statistics and (source.is_factory or source.is_onnx):
        raise SourceError("--keep-statistics goes with a run folder: nothing else comes with its training data.")
    if source.is_onnx and (source.opset is not None or source.dynamic_size):
        raise SourceError("--opset and --dynamic-size are for exporting from torch; an ONNX file keeps its own.")


def _kind(source: Source) -> str:
    return "an ONNX file" if source.is_onnx else "a path"
