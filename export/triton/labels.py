"""Names of classes: the label file of a Triton output, and the labels of a bundle's card."""

from __future__ import annotations

from math import prod
from pathlib import Path

from normfold.contract.manifest import TensorSpec
from normfold.export.errors import TritonError
from normfold.export.triton.model_config_pb2 import ModelConfig
from normfold.export.triton.model_folders import require_inside


def read_labels(config: ModelConfig, folder: Path) -> tuple[tuple[str, ...] | None, list[str]]:
    """Read the label file that a configuration names, one label a line.

    Args:
        config: of the model.
        folder: of the model, which the label files lie in.

    Returns:
        The labels, None if there are none; and a sentence for each further file of other labels: a card has one list.

    Raises:
        TritonError: a file cannot be read.
    """
    labels: tuple[str, ...] | None = None
    notes = []
    for output in config.output:
        if not output.label_filename:
            continue
        found = _read_file(folder, output.label_filename)
        if labels is None:
            labels = found
        elif found != labels:
            notes.append(f"The labels of the output {output.name!r} are left out: a bundle has one list of labels.")
    return labels, notes


def classes_of(spec: TensorSpec) -> int | None:
    """Return the number of values that a classification of an output ranks in each row; None if it is free."""
    sizes = spec.shape[1:] if len(spec.shape) > 1 else spec.shape
    return None if -1 in sizes else prod(sizes)


def describe_misfit(labels: tuple[str, ...] | None, config: ModelConfig, outputs: tuple[TensorSpec, ...]) -> list[str]:
    """Return a sentence for each output with a label file that has another number of classes."""
    labelled = {output.name for output in config.output if output.label_filename}
    if labels is None:
        return []
    return [
        f"There are {len(labels)} labels for the output {spec.name!r} with {classes} classes: none is shown for it."
        for spec in outputs
        if spec.name in labelled and (classes := classes_of(spec)) not in (None, len(labels))
    ]


def _read_file(folder: Path, file_name: str) -> tuple[str, ...]:
    require_inside(file_name, "label file")
    path = folder / file_name
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise TritonError(f"The label file {str(path)!r} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise TritonError(f"The label file {str(path)!r} is not UTF-8 text.") from None
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(lines)
