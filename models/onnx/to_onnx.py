"""Export a torch network in eval mode to an unfolded ONNX file, with its source card beside it.

Requires: every module is in eval mode, every BatchNorm has running statistics. The modules' flags are checked and never
changed, since the graph of a network in train mode does not show the mode.
Ensures: the graph computes the network's function in eval mode; every call of a BatchNorm is one BatchNormalization
node; inputs, outputs and the dynamic batch axis are named; constants are folded; the file holds no data about this
machine; the same network gives the same bytes.
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
from normfold.contract.errors import first_line
from normfold.contract.outputs.task import Regression
from normfold.contract.record import to_json
from normfold.contract.source_card import SourceCard
from normfold.models.errors import NoRunningStatisticsError, OnnxExportError, TrainModeError
from normfold.models.onnx.graph import clean_up, count_nodes, serialise
from normfold.models.onnx.trace import trace
from normfold.models.onnx.units import InUnits
from normfold.models.training.checkpoint import LOGITS, Checkpoint

OPSET = 20
OPSETS = range(18, 24)
"""The opsets that the exporter supports; for older ones it fails, or converts with losses."""

EXAMPLE_ROWS = 2
"""Rows of an example batch; torch.export treats an axis of size 1 as fixed."""

BATCH_AXIS, HEIGHT_AXIS, WIDTH_AXIS = "batch", "height", "width"


@dataclass(frozen=True)
class InputSpec:
    """Shape and dtype of an input. Where the values matter, as for indices, give an example tensor instead."""

    shape: tuple[int, ...]
    """Shape of one sample, without the batch axis."""
    dtype: torch.dtype = torch.float32

    def example(self) -> Tensor:
        """Return a batch of zeros: (EXAMPLE_ROWS, *shape)."""
        return torch.zeros(EXAMPLE_ROWS, *self.shape, dtype=self.dtype)


@dataclass(frozen=True)
class OnnxFile:
    """An exported ONNX file and its source card."""

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
    """Export a network to an unfolded ONNX file, and write its source card to a JSON file of the same name.

    Args:
        network: in eval mode, on the CPU.
        path: of the `.onnx` file; its folder must exist.
        inputs: specs or example tensors (batch axis first) by name, in the order of the arguments of `forward`.
        outputs: names, in the order in which the network returns them; None for the keys of a dict or named tuple, and
            otherwise `output`, or `output_0`, `output_1`, ….
        card: source card; None for an empty one.
        opset: version of the standard operators, 18 to 23.
        dynamic_size: make height and width dynamic for every floating-point input (N, C, H, W).

    Returns:
        Paths, names and the number of BatchNormalization nodes. Each file is written atomically.

    Raises:
        TrainModeError: a layer is in train mode; the network is not changed.
        NoRunningStatisticsError: a BatchNorm keeps no running mean and variance.
        OnnxExportError: a name, a shape or the opset is wrong, or torch cannot export the network.
        OSError: a file cannot be written.
    """
    check_exportable(network)
    if opset not in OPSETS:
        raise OnnxExportError(f"Opset {opset} is not supported; choose from {OPSETS.start} to {OPSETS.stop - 1}.")
    if path.suffix != ".onnx":
        raise OnnxExportError(f"The ONNX file must have the suffix .onnx, got {str(path)!r}.")
    if not inputs:
        raise OnnxExportError("The network needs at least one named input.")
    examples = {name: _example(name, given) for name, given in inputs.items()}
    axes = {name: _dynamic_axes(example, dynamic_size) for name, example in examples.items()}
    if dynamic_size and not any(HEIGHT_AXIS in dynamic.values() for dynamic in axes.values()):
        shapes = ", ".join(f"{name!r} {list(example.shape[1:])}" for name, example in examples.items())
        raise OnnxExportError(
            "Height and width cannot be dynamic: the network has no floating-point input (channels, "
            f"height, width), but {shapes}."
        )
    result, calls = _run(network, list(examples.values()))
    _run(network, [_grow(example, axes[name]) for name, example in examples.items()])
    output_names = _name_outputs(result, outputs, taken=list(examples))
    card = SourceCard() if card is None else card
    named = (*card.logits, *(() if card.task is None else (card.task.output,)))
    unknown = [name for name in named if name not in output_names]
    if unknown:
        kind = card.task.kind if card.task is not None and unknown[0] == card.task.output else "logits"
        raise OnnxExportError(
            f"The card lists {unknown[0]!r} as {kind}, but the outputs are {', '.join(output_names)}."
        )
    model = trace(network, examples, axes, output_names, opset)
    clean_up(model)
    batchnorm = count_nodes(model, "BatchNormalization")
    if batchnorm < calls:
        raise OnnxExportError(
            f"The network calls BatchNorm {calls} times, the exported graph has {batchnorm} BatchNormalization nodes; "
            "a decomposition or an optimisation has removed some, with their statistics."
        )
    card_path = path.with_suffix(".json")
    data = serialise(model)
    write_atomically(card_path, to_json(card).encode())
    write_atomically(path, data)
    return OnnxFile(path, card_path, tuple(examples), tuple(output_names), opset, batchnorm)


def checkpoint_to_onnx(
    checkpoint: Checkpoint, path: Path, *, opset: int = OPSET, dynamic_size: bool = False
) -> OnnxFile:
    """Export a trained network with its source card; the input is named `input`.

    The output is named `logits`; of a regression `values`, in the units of the targets.

    Args:
        checkpoint: from `load_checkpoint` or `recalibrate_run`.
        path: of the `.onnx` file; its folder must exist.
        opset: version of the standard operators, 18 to 23.
        dynamic_size: make height and width dynamic.

    Raises:
        OnnxExportError: see `to_onnx`.
        OSError: a file cannot be written.
    """
    inputs = {"input": InputSpec(checkpoint.config.architecture.input_shape)}
    card, network, output = checkpoint.config.card, checkpoint.network, LOGITS
    if isinstance(card.task, Regression):
        network, output = InUnits(network, card.task.targets), card.task.output
    return to_onnx(network, path, inputs, outputs=[output], card=card, opset=opset, dynamic_size=dynamic_size)


def check_exportable(network: nn.Module) -> None:
    """Check by the flags of its modules, which are not changed, that a network is in eval mode.

    Raises:
        TrainModeError: a module is in train mode.
        NoRunningStatisticsError: a BatchNorm keeps no running statistics.
    """
    training = [(name, module) for name, module in network.named_modules() if module.training]
    # The error names layers rather than the containers around them.
    leaves = [name for name, module in training if next(module.children(), None) is None]
    if training:
        raise TrainModeError([name or type(network).__name__ for name in leaves or [name for name, _ in training]])
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and (module.running_mean is None or module.running_var is None):
            raise NoRunningStatisticsError(name or type(module).__name__)


def _example(name: str, given: InputSpec | Tensor) -> Tensor:
    try:
        example = given.example() if isinstance(given, InputSpec) else given
    except (RuntimeError, MemoryError, OverflowError):  # torch raises any of them where memory is missing
        raise OnnxExportError(f"An example of input {name!r} does not fit into this machine's memory.") from None
    if example.ndim == 0 or len(example) == 0:
        raise OnnxExportError(f"The example of input {name!r} needs a batch axis with at least one row.")
    return example if len(example) > 1 else example.repeat(EXAMPLE_ROWS, *(1,) * (example.ndim - 1))


def _dynamic_axes(example: Tensor, dynamic_size: bool) -> dict[int, str]:
    """Return the names of an input's dynamic axes, by index."""
    axes = {0: BATCH_AXIS}
    if dynamic_size and example.ndim == 4 and example.is_floating_point():
        axes |= {2: HEIGHT_AXIS, 3: WIDTH_AXIS}
    return axes


def _grow(example: Tensor, axes: Mapping[int, str]) -> Tensor:
    """Enlarge every dynamic axis by half or more; torch.export does not detect every size that a network fixes."""
    for axis in axes:
        extra = example.narrow(axis, 0, (example.shape[axis] + 1) // 2)
        example = torch.cat([example, extra], dim=axis)
    return example


def _run(network: nn.Module, examples: list[Tensor]) -> tuple[Any, int]:
    """Run the network once; return its result, and the number of calls of BatchNorm layers."""
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
        reason = first_line(error, default="no message")
        raise OnnxExportError(f"The network does not take inputs of shape {shapes}: {reason}") from error
    finally:
        for handle in handles:
            handle.remove()
    return result, len(calls)


def _name_outputs(result: Any, given: Sequence[str] | None, taken: list[str]) -> list[str]:
    """Return the names of the tensors that a network returns, in the order in which torch flattens them."""
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
        raise OnnxExportError(f"Name {repeated[0]!r} is given to two inputs or outputs; give unique names.")
    return names


def _path_name(path: tuple[Any, ...]) -> str:
    """Return `scores` for a key, `output_0` for an index of a tuple, `boxes.0` for an index below a key."""
    parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    if len(parts) == 1 and parts[0].isdigit():
        return f"output_{parts[0]}"
    return ".".join(parts)


def _kinds(result: Any) -> str:
    if isinstance(result, (tuple, list)):
        return f"{type(result).__name__} of {', '.join(type(item).__name__ for item in result)}"
    return type(result).__name__
