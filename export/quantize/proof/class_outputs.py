"""Which outputs of a network hold classes, so that two networks can be compared by these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from normfold.contract.manifest import class_axis
from normfold.contract.outputs.task import MultiLabel, OutputTask
from normfold.contract.source_card import IGNORED, SourceCard
from normfold.export.arrays import Tensor
from normfold.export.errors import SampleError
from normfold.export.verify.runner import ValueInfo, value_info

_CLASS_OPERATORS = frozenset({"Softmax", "LogSoftmax", "ArgMax"})

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
_INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32})


@dataclass(frozen=True)
class ClassOutputs:
    """The outputs that hold logits, probabilities or classes.

    Attributes:
        names: of these outputs.
        infos: of every output, by name.
        by_operator: those of `names` that Softmax or ArgMax gives, where no card says which hold classes.
        task: what an output means that holds no classes but values, or labels that do not exclude each other.
        are_known: the card or an operator says so; otherwise an output of shape (rows, 2 or more) is taken for one.
    """

    names: tuple[str, ...]
    infos: Mapping[str, ValueInfo]
    by_operator: frozenset[str] = frozenset()
    are_known: bool = True
    task: OutputTask | None = None


def class_outputs(path: Path, model: ir.Model, card: SourceCard) -> ClassOutputs:
    """Return the outputs that hold classes.

    They are the card's logits; without these, the outputs with as many classes as the card has labels; without those,
    what Softmax and ArgMax give, and every output of shape (rows, 2 or more).

    Args:
        path: of the network, for errors.
        model: the network.
        card: of the network.

    Raises:
        ModelFileError: an output is not a tensor of known rank.
    """
    infos = {value.name or "": value_info(path, value) for value in model.graph.outputs}
    if card.task is not None:
        has_labels = isinstance(card.task, MultiLabel)
        return ClassOutputs((card.task.output,) if has_labels else (), infos, task=card.task)
    if card.logits:
        return ClassOutputs(tuple(name for name in card.logits if name in infos), infos)
    by_operator = frozenset(value.name or "" for value in model.graph.outputs if _is_made_by_class_operator(value))
    counts = {name: _class_count(info, name in by_operator) for name, info in infos.items()}
    if card.labels:
        return ClassOutputs(tuple(name for name, count in counts.items() if count in (len(card.labels), None)), infos)
    names = tuple(name for name, count in counts.items() if count is None or count > 1)
    return ClassOutputs(names, infos, by_operator, by_operator.issuperset(names))


def labelled_output(labels: Tensor, outputs: ClassOutputs) -> str:
    """Return the output that labels are the classes of.

    Args:
        labels: of rows, or of the pixels of masks, where IGNORED means that a pixel has no class.
        outputs: of the network; where none is known to hold classes, any may.

    Raises:
        SampleError: they are the classes of no output, or may be those of several.
    """
    if outputs.task is not None:
        return _output_of_task(labels, outputs.task, outputs.infos)
    names = outputs.names if outputs.are_known and outputs.names else tuple(outputs.infos)
    fitting = [name for name in names if _labels_fit(labels, outputs.infos[name])]
    if len(fitting) > 1:  # logits and their Softmax, for example
        fitting = [name for name in fitting if name in outputs.by_operator] or fitting
    if len(fitting) == 1:
        return fitting[0]
    given = f"{labels.dtype} of shape [{', '.join(('rows', *map(str, labels.shape[1:])))}]"
    if labels.size:
        given += f" from {labels.min()} to {labels.max()}"
    if fitting:
        raise SampleError(
            f"The labels 'y' of the samples may be the classes of the outputs {', '.join(map(repr, fitting))}; a card "
            "that names one of them in 'logits' says which."
        )
    shapes = ", ".join(f"{name!r} {_shape_text(outputs.infos[name])}" for name in names)
    raise SampleError(
        f"The labels 'y' of the samples, {given}, are not the classes of an output of the network: {shapes}. Take "
        "'y' out of the file to quantise without labels."
    )


def _output_of_task(labels: Tensor, task: OutputTask, infos: Mapping[str, ValueInfo]) -> str:
    """Return the output of a task; labels are (rows, values), or (rows,) of one value."""
    count = infos[task.output].shape[1:]
    shape = labels.shape[1:] or (1,)
    if shape != tuple(count):
        raise SampleError(
            f"The labels 'y' of the samples, {labels.dtype} of shape {list(labels.shape)}, are not those of the output "
            f"{task.output!r} {_shape_text(infos[task.output])}."
        )
    if isinstance(task, MultiLabel) and not np.isin(labels, (0, 1)).all():
        raise SampleError(f"The labels 'y' of the samples must be 0 or 1 for each label of {task.output!r}.")
    return task.output


def _is_made_by_class_operator(output: ir.Value) -> bool:
    node = output.producer()
    if node is None or node.op_type not in _CLASS_OPERATORS:
        return False
    is_of_pixels = output.shape is not None and len(output.shape) == 4 and node.op_type != "ArgMax"
    return not is_of_pixels or node.attributes.get_int("axis", -1) in (1, -3)  # by other axes as in attention


def _class_count(info: ValueInfo, is_known: bool) -> int | None:
    """Return the number of classes of an output; None where its size is free, 0 where it holds none."""
    rank = len(info.shape)
    if info.dtype in _INTEGERS:
        return None if is_known else 0
    if info.dtype not in _FLOATS or rank not in (2, 4):
        return 0
    if rank == 4 and not is_known and info.shape[2:] != (1, 1):  # a picture as a rule
        return 0
    size = info.shape[1]
    return size if isinstance(size, int) else None


def _labels_fit(labels: Tensor, info: ValueInfo) -> bool:
    """Return whether an array may hold the labels of an output."""
    sizes = [size if isinstance(size, int) else -1 for size in info.shape]
    classes = sizes.pop(class_axis(tuple(sizes))) if sizes and info.dtype in _FLOATS else -1
    while len(sizes) > max(labels.ndim, 1) and sizes[-1] == 1:
        sizes.pop()
    if not sizes or not labels.size or len(sizes) != labels.ndim:
        return False
    if any(size not in (-1, given) for size, given in zip(sizes[1:], labels.shape[1:], strict=True)):
        return False
    known = labels[labels != IGNORED] if labels.ndim > 1 else labels
    return bool(known.size and known.min() >= 0) and (classes < 0 or bool(known.max() < classes))


def _shape_text(info: ValueInfo) -> str:
    return str([size if isinstance(size, int) else str(size or "?") for size in info.shape]).replace("'", "")
