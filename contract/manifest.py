"""The manifest of a bundle, and the source card beside an unfolded model, as JSON files.

    source card   what a network cannot say of itself: preprocessing, labels, which outputs are logits, metrics
    manifest      the card's facts, and what export established: tensors, files and their hashes, fold, verification

Both are pydantic models: wrong or unknown fields are named in the error. A manifest of an older schema version is
brought up to date while it is read; one of a newer version is refused. Readers refuse fields that they do not know, so
a manifest is written in the oldest schema version that has all of its fields:

    1   all but the following
    2   copy_of
    3   adapted; preprocessing of sequences; card.running_statistics
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from normfold.contract.errors import InputError
from normfold.contract.preprocess import Preprocessing, SequencePreprocessing

SCHEMA_VERSION = 3
"""The newest that is read here."""

DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BYTES"),
)
"""Names of the Open Inference Protocol for what a tensor holds."""

LARGEST_VERSION = 999_999_999
"""Versions go from 1 to this."""

PRIOR = 16.0
"""Samples that the statistics of training count for in an adaptation, unless somebody says otherwise; compared with
others by `make bench-adapt`."""

MANIFEST_NAME = "manifest.json"
MODEL_NAME = "model.onnx"
UNFOLDED_NAME = "unfolded.onnx"
STATISTICS_NAME = "statistics.safetensors"


Record = TypeVar("Record", bound=BaseModel)


class ManifestError(InputError):
    """A manifest or source card cannot be read, or does not say what it must."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{str(path)!r} {problem}")
        self.path, self.problem = path, problem


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(_Record):
    """One input or output of the network."""

    name: str
    datatype: str = Field(description="Open Inference Protocol name: BOOL, UINT8 … INT64, FP16, FP32, FP64, BYTES.")
    shape: tuple[int, ...] = Field(description="-1 where the size is free; the batch axis first.")

    @field_validator("datatype")
    @classmethod
    def _check_datatype(cls, datatype: str) -> str:
        if datatype not in DATATYPES:
            raise ValueError(f"{datatype!r} is none of {', '.join(DATATYPES)}")
        return datatype

    @field_validator("shape")
    @classmethod
    def _check_shape(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < -1 for size in shape):
            raise ValueError(f"{list(shape)} has a size below -1")
        return shape


class LayerMovement(_Record):
    """How far the running statistics of one BatchNorm moved when they were taken anew; null: the old are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layer: str
    mean_shift: float | None = Field(
        description="Largest |new mean - old mean| of a channel, in old standard deviations, sqrt(variance + epsilon)."
    )
    variance_ratio: tuple[float, float] | None = Field(
        description="Smallest and largest (new variance + epsilon) / (old variance + epsilon) of a channel."
    )


class RunningStatistics(_Record):
    """What it came to when they were taken anew, over all of the training data, with the weights frozen."""

    samples: int = Field(description="Rows of the training split.")
    taken: bool = Field(description="False: the accuracy fell, and the network keeps the statistics of its training.")
    accuracy_before: dict[str, float] = Field(description="By split: validation, which decides, and test.")
    accuracy_after: dict[str, float]
    layers: tuple[LayerMovement, ...] = Field(description="In the order in which the network calls them.")


class SourceCard(_Record):
    """What is known of a network beside its graph. Every field may be left out."""

    preprocessing: Preprocessing | None = Field(
        default=None, description="How a raw input becomes the network's tensor; null if raw inputs are tensors."
    )
    labels: tuple[str, ...] | None = Field(default=None, description="Names of the classes, in the network's order.")
    logits: tuple[str, ...] = Field(
        default=(), description="Outputs that are logits: softmax makes them probabilities."
    )
    metrics: dict[str, float] = Field(default_factory=dict, description="Measured in training, on held-out data.")
    origin: str = Field(default="", description="Architecture and data, in words.")
    running_statistics: RunningStatistics | None = Field(
        default=None,
        exclude_if=lambda record: record is None,
        description="Where they were taken anew before export; left out where they are those of training.",
    )

    @property
    def schema_version(self) -> int:
        """The oldest schema version of a manifest that can hold this card."""
        of_3 = isinstance(self.preprocessing, SequencePreprocessing) or self.running_statistics is not None
        return 3 if of_3 else 1


class FoldSummary(_Record):
    """What became of the BatchNormalization nodes."""

    batchnorm_before: int
    batchnorm_after: int
    kept: dict[str, int] = Field(default_factory=dict, description="Reason code to number of nodes kept for it.")


class OutputError(_Record):
    """How far one output of the folded network is from the original's, beside the original's own noise."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    error: float = Field(description="Largest absolute difference, relative to the output's range.")
    noise: float = Field(description="What moving the input by one unit in the last place does, likewise.")
    allowed: float


class Adaptation(_Record):
    """What a bundle's statistics were re-estimated from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    from_version: int = Field(gt=0, le=LARGEST_VERSION, description="The version that was adapted.")
    samples: int = Field(gt=0, description="How many there were, without labels.")
    prior: float = Field(ge=0, description="How many samples the statistics that training left counted for.")


class Manifest(_Record):
    """All that a server must know of a bundle."""

    schema_version: int = 1
    name: str
    version: int = Field(gt=0, le=LARGEST_VERSION)
    created: str = Field(description="UTC, ISO 8601.")
    copy_of: int | None = Field(
        default=None,
        gt=0,
        le=LARGEST_VERSION,
        exclude_if=lambda version: version is None,
        description="The version that was rolled back to by this one; left out where there is none.",
    )
    adapted: Adaptation | None = Field(
        default=None,
        exclude_if=lambda adaptation: adaptation is None,
        description="Where the statistics were re-estimated; left out where they are those of training.",
    )
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    takes_pixels: bool = Field(
        default=False,
        description="The one input is 8-bit pixels, 0 to 255 at full intensity; the network standardises them itself.",
    )
    batchable: bool = Field(description="Rows are independent: a server may run requests together.")
    opset: int
    card: SourceCard = Field(default_factory=SourceCard)
    fold: FoldSummary
    verification: dict[str, OutputError] = Field(description="By output.")
    versions: dict[str, str] = Field(description="Package to version, at export.")
    files: dict[str, str] = Field(description="File in the bundle to its sha256, in hexadecimal.")

    @field_validator("copy_of")
    @classmethod
    def _check_schema(cls, copy_of: int | None, info: ValidationInfo) -> int | None:
        if copy_of is not None and info.data.get("schema_version", 2) < 2:
            raise ValueError("it came with schema version 2")
        return copy_of

    @field_validator("adapted")
    @classmethod
    def _check_adapted_schema(cls, adapted: Adaptation | None, info: ValidationInfo) -> Adaptation | None:
        if adapted is not None and info.data.get("schema_version", 3) < 3:
            raise ValueError("it came with schema version 3")
        return adapted

    @field_validator("card")
    @classmethod
    def _check_card(cls, card: SourceCard, info: ValidationInfo) -> SourceCard:
        if card.schema_version > info.data.get("schema_version", SCHEMA_VERSION):
            raise ValueError(f"it holds what came with schema version {card.schema_version}")
        return card

    def as_copy(self, version: int, created: str) -> Manifest:
        """Return the manifest of a copy of this bundle.

        Args:
            version: the copy's.
            created: when the copy was made: UTC, ISO 8601.

        Raises:
            ValidationError: the version is not one that a bundle can have.
        """
        changes = {
            "schema_version": max(2, self.schema_version),
            "version": version,
            "created": created,
            "copy_of": self.version,
        }
        return Manifest.model_validate(dict(self) | changes)


def class_axis(shape: tuple[int, ...]) -> int:
    """Return the axis of classes of logits: 1 of pictures, (rows, classes, height, width), otherwise the last."""
    return 1 if len(shape) == 4 else len(shape) - 1


def read_manifest(path: Path) -> Manifest:
    """Read a manifest of this or an older schema version.

    Raises:
        ManifestError: unreadable, not JSON, a newer schema version, or fields that are wrong.
    """
    record = _read_json(path)
    version = record.get("schema_version")
    if type(version) is not int or version < 1:
        raise ManifestError(path, "has no schema_version; it was not written by normfold export.")
    if version > SCHEMA_VERSION:
        raise ManifestError(
            path, f"has schema version {version}, newer than the {SCHEMA_VERSION} read here; upgrade normfold."
        )
    return _validate(Manifest, record, path)


def read_source_card(path: Path) -> SourceCard:
    """Read the card beside an unfolded model.

    Raises:
        ManifestError: unreadable, not JSON, or fields that are wrong.
    """
    return _validate(SourceCard, _read_json(path), path)


def to_json(record: BaseModel) -> str:
    """Return a record as indented JSON with a final newline."""
    return record.model_dump_json(indent=2) + "\n"


def sha256_of(path: Path) -> str:
    """Return the file's sha256 in hexadecimal, reading it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise ManifestError(path, f"cannot be read: {error.strerror}.") from None
    except RecursionError:
        raise ManifestError(path, "is nested too deeply.") from None
    except ValueError as error:
        raise ManifestError(path, f"is not JSON: {error}.") from None
    if not isinstance(record, dict):
        raise ManifestError(path, "does not hold a JSON object.")
    return record


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN, Infinity and -Infinity, which Python's parser would take."""
    raise ValueError(f"{name} is no number in JSON")


def _validate(kind: type[Record], record: dict[str, Any], path: Path) -> Record:
    try:
        return kind.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ManifestError(path, f"has a wrong field {where!r}: {first['msg']}.") from None
