"""From a torch network in eval mode to an unfolded model.onnx, with its source card beside it.

Requires: every module in eval mode, every BatchNorm with running statistics. The modes are read from the modules'
flags, and never changed: the graph of a network in train mode does not show it.
Ensures: the graph computes what the network does in eval mode; one BatchNormalization node for each call of a
BatchNorm; named inputs and outputs; a named dynamic batch axis; constants folded; no trace of this machine in the file;
the same bytes for the same network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten_with_path

from normfold.contract.atomic_write import write_atomically
from normfold.contract.manifest import SourceCard, to_json
from normfold.models.errors import NoRunningStatisticsError, OnnxExportError, TrainModeError
from normfold.models.onnx.graph import count_nodes, serialise, tidy
from normfold.models.onnx.trace import trace
from normfold.models.training.checkpoint import LOGITS, Checkpoint, load_checkpoint

OPSET = 20
OPSETS = range(18, 24)
"""Those the exporter writes; it fails, or converts with losses, below."""

EXAMPLE_ROWS = 2
"""Rows of an example batch: torch.export would take a single one for a fixed size."""

BATCH_AXIS, HEIGHT_AXIS, WIDTH_AXIS = "batch", "height", "width"


@dataclass(frozen=True)
class InputSpec:
    """One input, as shape and dtype. Where the values matter, as indices may, give an example tensor instead."""

    shape: tuple[int, ...]
    """Of one sample, without the batch axis."""
    dtype: torch.dtype = torch.float32

    def example(self) -> Tensor:
        """Return a batch of zeros."""
        return torch.zeros(EXAMPLE_ROWS, *self.shape, dtype=self.dtype)


@dataclass(frozen=True)
class OnnxFile:
    """What was written."""

    path: Path
    card_path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    batchnorm: int
    """Number of BatchNormalization nodes."""


def to_onnx(
    network: nn.Module,
    path: Path,
    inputs: Mapping[str, InputSpec | Tensor],
    *,
    outputs: Sequence[str] | None = None,
    card: SourceCard | None = None,
    opset: int = OPSET,
    dynamic_size: bool = False,
) -> OnnxFile:
    """Write a network as unfolded ONNX, and its source card as JSON of the same name beside it.

    Args:
        network: in eval mode, on the CPU.
        path: of the `.onnx` file; the folder must exist.
        inputs: by name, in the order of the arguments of `forward`. Example tensors have the batch axis first.
        outputs: names, in the order in which the network returns them; None takes the keys of a dict or named tuple,
            and otherwise `output`, or `output_0`, `output_1`, ….
        card: None writes an empty one.
        opset: of the standard operators.
        dynamic_size: leave height and width free, for every floating-point input (N, C, H, W).

    Returns:
        Names and counts of what was written. Both files are there whole, or neither is.

    Raises:
        TrainModeError: a layer is in train mode; nothing is changed.
        NoRunningStatisticsError: a BatchNorm keeps no running mean and variance.
        OnnxExportError: names, shapes or opset are wrong, or torch cannot export the network; with its reason.
        OSError: the file cannot be written.
    """
    check_exportable(network)
    if opset not in OPSETS:
        raise OnnxExportError(f"Opset {opset} cannot be written; choose from {OPSETS.start} to {OPSETS.stop - 1}.")
    if path.suffix != ".onnx":
        raise OnnxExportError(f"An ONNX file is named .onnx, so that its card can stand beside it; got {str(path)!r}.")
    if not inputs:
        raise OnnxExportError("The network needs at least one named input.")
    examples = {name: _example(name, given) for name, given in inputs.items()}
    axes = {name: _free_axes(example, dynamic_size) for name, example in examples.items()}
    if dynamic_size and not any(HEIGHT_AXIS in free.values() for free in axes.values()):
        shapes = ", ".join(f"{name!r} {list(example.shape[1:])}" for name, example in examples.items())
        raise OnnxExportError(
            "Height and width cannot be left free (--dynamic-size): the network takes no picture (channels, height, "
            f"width) of floats, but {shapes}."
        )
    result, calls = _run(network, list(examples.values()))
    _run(network, [_grow(example, axes[name]) for name, example in examples.items()])
    output_names = _name_outputs(result, outputs, taken=list(examples))
    card = SourceCard() if card is None else card
    unknown = [name for name in card.logits if name not in output_names]
    if unknown:
        raise OnnxExportError(f"The card calls {unknown[0]!r} logits; the outputs are {', '.join(output_names)}.")
    model = trace(network, examples, axes, output_names, opset)
    tidy(model)
    batchnorm = count_nodes(model, "BatchNormalization")
    if batchnorm < calls:
        raise OnnxExportError(
            f"The network calls BatchNorm {calls} times, the exported graph has {batchnorm} BatchNormalization nodes; "
            "a decomposition or an optimisation removed some, and their statistics could not be found again."
        )
    card_path = path.with_suffix(".json")
    data = serialise(model)
    write_atomically(card_path, to_json(card).encode())
    write_atomically(path, data)
    return OnnxFile(path, card_path, tuple(examples), tuple(output_names), opset, batchnorm)


def checkpoint_to_onnx(folder: Path, path: Path, *, opset: int = OPSET, dynamic_size: bool = False) -> OnnxFile:
    """Write the trained network of a run folder as unfolded ONNX; see `trained_to_onnx`.

    Raises:
        WeightsError, ArchitectureError: the checkpoint cannot be loaded.
        OnnxExportError: see `to_onnx`.
    """
    return trained_to_onnx(load_checkpoint(folder), path, opset=opset, dynamic_size=dynamic_size)


def trained_to_onnx(checkpoint: Checkpoint, path: Path, *, opset: int = OPSET, dynamic_size: bool = False) -> OnnxFile:
    """Write a trained classifier as unfolded ONNX, with its card: input `input`, output `logits`.

    Raises:
        OnnxExportError: see `to_onnx`.
    """
    inputs = {"input": InputSpec(checkpoint.config.architecture.input_shape)}
    card = checkpoint.config.card
    return to_onnx(
        checkpoint.network, path, inputs, outputs=[LOGITS], card=card, opset=opset, dynamic_size=dynamic_size
    )


def check_exportable(network: nn.Module) -> None:
    """Make sure that the network is in inference: judged by the flags of its modules, which are left as they are.

    Raises:
        TrainModeError: a module is in train mode.
        NoRunningStatisticsError: a BatchNorm keeps no running statistics.
    """
    training = [(name, module) for name, module in network.named_modules() if module.training]
    # A layer says more than the containers around it.
    leaves = [name for name, module in training if next(module.children(), None) is None]
    if training:
        raise TrainModeError([name or type(network).__name__ for name in leaves or [name for name, _ in training]])
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and (module.running_mean is None or module.running_var is None):
            raise NoRunningStatisticsError(name or type(module).__name__)


def _example(name: str, given: InputSpec | Tensor) -> Tensor:
    try:
        example = given.example() if isinstance(given, InputSpec) else given
    except (RuntimeError, MemoryError, OverflowError):  # torch's words for memory that is not there
        raise OnnxExportError(f"Input {name!r} is too large to be tried out in this machine's memory.") from None
    if example.ndim == 0 or len(example) == 0:
        raise OnnxExportError(f"The example of input {name!r} needs a batch axis with at least one row.")
    return example if len(example) > 1 else example.repeat(EXAMPLE_ROWS, *(1,) * (example.ndim - 1))


def _free_axes(example: Tensor, dynamic_size: bool) -> dict[int, str]:
    axes = {0: BATCH_AXIS}
    if dynamic_size and example.ndim == 4 and example.is_floating_point():
        axes |= {2: HEIGHT_AXIS, 3: WIDTH_AXIS}
    return axes


def _grow(example: Tensor, axes: Mapping[int, str]) -> Tensor:
    """Enlarge every free axis by half or more: torch.export does not notice all sizes that a network fixes."""
    for axis in axes:
        extra = example.narrow(axis, 0, (example.shape[axis] + 1) // 2)
        example = torch.cat([example, extra], dim=axis)
    return example


def _run(network: nn.Module, examples: list[Tensor]) -> tuple[Any, int]:
    """Run the network once; return its result, and how often a BatchNorm was called."""
    calls: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
    ]
    try:
        with torch.no_grad():
            result = network(*examples)
    except Exception as error:  # the network may raise anything
        shapes = ", ".join(str(list(example.shape)) for example in examples)
        reason = str(error).strip().partition("\n")[0]
        raise OnnxExportError(f"The network does not take inputs of shape {shapes}: {reason}") from error
    finally:
        for handle in handles:
            handle.remove()
    return result, len(calls)


def _name_outputs(result: Any, given: Sequence[str] | None, taken: list[str]) -> list[str]:
    """Names of the tensors that a network returns, in the order in which torch flattens them."""
    paths_and_tensors, _ = tree_flatten_with_path(result)
    if not paths_and_tensors or not all(isinstance(value, Tensor) for _, value in paths_and_tensors):
        raise OnnxExportError(f"The network must return tensors, alone or in tuples and dicts; got {_kinds(result)}.")
    if given is not None:
        names = list(given)
    elif isinstance(result, Tensor):
        names = ["output"]
    else:
        names = [_path_name(path) for path, _ in paths_and_tensors]
    if len(names) != len(paths_and_tensors):
        raise OnnxExportError(f"The network returns {len(paths_and_tensors)} tensors; names given: {', '.join(names)}.")
    repeated = [name for name in names if [*names, *taken].count(name) > 1]
    if repeated:
        raise OnnxExportError(f"Name {repeated[0]!r} stands for two inputs or outputs; give other names.")
    return names


def _path_name(path: tuple[Any, ...]) -> str:
    """`scores` for a key, `output_0` for a place in a tuple, `boxes.0` for one inside the other."""
    parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    if len(parts) == 1 and parts[0].isdigit():
        return f"output_{parts[0]}"
    return ".".join(parts)


def _kinds(result: Any) -> str:
    if isinstance(result, (tuple, list)):
        return f"{type(result).__name__} of {', '.join(type(item).__name__ for item in result)}"
    return type(result).__name__
