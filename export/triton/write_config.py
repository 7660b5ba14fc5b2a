"""Write the config.pbtxt of a model of a repository, so that Triton serves the same folder.

    NAME/config.pbtxt   NAME/labels.txt   NAME/VERSION/model.onnx   NAME/VERSION/manifest.json …

Triton reads the first three and ignores the rest; a service ignores the first two. Where rows are independent and every
tensor has a further axis, Triton may batch (max_batch_size), and the configuration leaves out the first axis; where
that is not so, it has whole shapes, so that clients see the same tensors as here.

Source: github.com/triton-inference-server/server, docs/user_guide/model_configuration.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from normfold.contract.atomic_write import os_errors_as_write_errors, write_atomically
from normfold.contract.manifest import Manifest
from normfold.export.errors import TritonError
from normfold.export.repository.versions import ModelFolder
from normfold.export.triton.config_file import CONFIG_NAME, config_text
from normfold.export.triton.labels import classes_of
from normfold.export.triton.model_config_pb2 import (
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelOutput,
)
from normfold.export.triton.model_folders import ONNX_BACKEND
from normfold.export.triton.tensors import CONFIG_DATATYPES
from normfold.export.triton.version_policy import read_policy

LABELS_NAME = "labels.txt"
MAX_BATCH_SIZE = 64
"""Rows of a batch, the most that a service tries where nothing is set."""

_HEADER = "# Written by normfold; it is written anew, so change a copy.\n"


@dataclass(frozen=True)
class WrittenConfig:
    """A configuration that was written.

    Attributes:
        name: of the model.
        path: of config.pbtxt.
        notes: what Triton does otherwise, in sentences.
    """

    name: str
    path: Path
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PreparedConfig:
    """A configuration that can be written.

    Attributes:
        folder: of the model.
        message: what config.pbtxt will say.
        labels: what the label file will hold; None if there is none.
        notes: what Triton does otherwise, in sentences.
    """

    folder: Path
    message: ModelConfig
    labels: tuple[str, ...] | None
    notes: tuple[str, ...]

    def write(self) -> WrittenConfig:
        """Write config.pbtxt, after the label file.

        Raises:
            WriteError: the folder cannot be written.
        """
        path = self.folder / CONFIG_NAME
        with os_errors_as_write_errors(path):
            if self.labels is not None:
                write_atomically(self.folder / LABELS_NAME, _label_lines(self.labels))
            write_atomically(path, (_HEADER + config_text(self.message)).encode())
        return WrittenConfig(self.message.name, path, self.notes)


def check_target(folder: Path) -> bool:
    """Return whether a model's folder holds a configuration that was written here.

    Raises:
        TritonError: another hand wrote it.
    """
    path = folder / CONFIG_NAME
    try:
        is_ours = path.read_text(errors="replace").startswith(_HEADER)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise TritonError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    if not is_ours:
        raise TritonError(f"{str(path)!r} was not written by normfold; move it away to have it written.")
    return True


def prepare_config(model: ModelFolder, policy: str = "all", max_batch_size: int = MAX_BATCH_SIZE) -> PreparedConfig:
    """Make the configuration of a model of a repository.

    Args:
        model: of the repository.
        policy: version policy, as of the service: all, latest:N, or numbers joined by commas.
        max_batch_size: rows of a batch, where rows are independent.

    Raises:
        TritonError: the versions that the policy selects have different tensors or labels, Triton cannot have such
            tensors, or another hand wrote a file of that name.
    """
    is_ours = check_target(model.folder)
    manifests = {number: one.manifest for number, one in model.versions.items() if one.manifest and not one.problem}
    message, labels, notes = make_config(model.name, manifests, policy, max_batch_size)
    path = model.folder / LABELS_NAME
    if labels is not None and not is_ours and path.exists() and path.read_bytes() != _label_lines(labels):
        raise TritonError(f"{str(path)!r} was not written by normfold; move it away to have it written.")
    return PreparedConfig(model.folder, message, labels, tuple(notes))


def make_config(
    name: str, manifests: Mapping[int, Manifest], policy: str, max_batch_size: int
) -> tuple[ModelConfig, tuple[str, ...] | None, list[str]]:
    """Return the configuration of a model, its labels if it has any, and what Triton does otherwise.

    Raises:
        TritonError: as `prepare_config`.
    """
    version_policy, selected = read_policy(policy, manifests)
    if not selected:
        raise TritonError(f"The version policy {policy!r} selects no version of {name!r} that can answer.")
    newest = manifests[selected[-1]]
    for number in selected:
        _check_same(name, number, manifests[number], selected[-1], newest)
    specs = (*newest.inputs, *newest.outputs)
    for spec in specs:
        if not spec.shape or 0 in spec.shape:
            raise TritonError(
                f"{spec.name!r} of {name!r} has the shape {list(spec.shape)}; Triton has no scalars, and no size 0."
            )
    batchable = all(manifests[number].batchable for number in selected)
    batched = batchable and all(len(spec.shape) > 1 and spec.shape[0] == -1 for spec in specs)
    labels = _usable_labels(newest.card.labels)
    config = ModelConfig(
        name=name,
        backend=ONNX_BACKEND,
        version_policy=version_policy,
        max_batch_size=max_batch_size if batched else 0,
        dynamic_batching=ModelDynamicBatching() if batched else None,
    )
    rows = 1 if batched else 0
    for spec in newest.inputs:
        kind = CONFIG_DATATYPES[spec.datatype]
        config.input.append(ModelInput(name=spec.name, data_type=kind, dims=spec.shape[rows:]))  # type: ignore[arg-type]
    for spec in newest.outputs:
        kind = CONFIG_DATATYPES[spec.datatype]
        output = ModelOutput(name=spec.name, data_type=kind, dims=spec.shape[rows:])  # type: ignore[arg-type]
        if labels is not None and classes_of(spec) == len(labels):
            output.label_filename = LABELS_NAME
        config.output.append(output)
    if not any(output.label_filename for output in config.output):
        labels = None
    return config, labels, _notes(newest, batchable, batched, labels)


def _label_lines(labels: tuple[str, ...]) -> bytes:
    return "".join(f"{label}\n" for label in labels).encode()


def _check_same(name: str, number: int, manifest: Manifest, newest_number: int, newest: Manifest) -> None:
    """Check that two versions can have one configuration; Triton has one for all versions of a model."""
    for what in ("inputs", "outputs"):
        if getattr(manifest, what) != getattr(newest, what):
            raise TritonError(
                f"Versions {number} and {newest_number} of {name!r} differ in their {what}, and Triton has one "
                "configuration for all versions; select some with --version-policy."
            )
    if manifest.card.labels != newest.card.labels:
        raise TritonError(
            f"Versions {number} and {newest_number} of {name!r} differ in their labels, and Triton has one label file "
            "for all versions; select some with --version-policy."
        )


def _usable_labels(labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the labels, if each of them fits into a line of a file."""
    if labels is None or any(len(label.splitlines()) != 1 for label in labels):
        return None
    return labels


def _notes(manifest: Manifest, batchable: bool, batched: bool, labels: tuple[str, ...] | None) -> list[str]:
    notes = []
    if batchable and not batched:
        notes.append(
            "Triton runs every request alone: it batches where every tensor has a free first axis and another."
        )
    if manifest.card.labels is not None and labels is None:
        notes.append("The labels are left out: no output has as many classes, or a label is not one line of text.")
    if manifest.card.preprocessing is not None:
        notes.append("Triton takes tensors alone; raw inputs, as the route :predict takes them, are not preprocessed.")
    return notes
