"""The manifest of a bundle, `manifest.json`: tensors, files with their sha256, fold, verification, and the source card.

A wrong or unknown field is named in the error. Manifests of older schema versions load, those of a newer one do not.
Since readers refuse unknown fields, a manifest is written in the oldest schema version that has all of its fields:

    1   all but the following
    2   copy_of
    3   adapted; preprocessing of sequences; card.running_statistics
    4   precision
    5   card.task; preprocessing of tables with texts or missing values
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from normfold.contract.precision.record import Precision
from normfold.contract.record import ManifestError, Record, read_json_object, validate_record
from normfold.contract.source_card import SourceCard

SCHEMA_VERSION = 5
"""The newest schema version that can be read."""

DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BYTES"),
)
"""The datatypes of the Open Inference Protocol."""

PRECISION_SCHEMA_VERSION = 4
"""The schema version that `precision` came with."""

MAX_VERSION = 999_999_999
"""The largest version of a model; the smallest is 1."""

DEFAULT_PRIOR = 16.0
"""Default weight of the training statistics in an adaptation, as a number of samples; `make bench-adapt` compares it
with other values."""

MANIFEST_NAME = "manifest.json"
MODEL_NAME = "model.onnx"
UNFOLDED_NAME = "unfolded.onnx"
REFERENCE_NAME = "reference.onnx"
"""The folded float32 network, in bundles whose `model.onnx` is of a lower precision."""
STATISTICS_NAME = "statistics.safetensors"


class TensorSpec(Record):
    """Name, datatype and shape of an input or output."""

    name: str
    datatype: str = Field(description="Open Inference Protocol name: BOOL, UINT8 … INT64, FP16, FP32, FP64, BYTES.")
    shape: tuple[int, ...] = Field(description="The batch axis first; -1 for an axis of any size.")

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


class FoldSummary(Record):
    """Number of BatchNormalization nodes before and after the fold."""

    batchnorm_before: int
    batchnorm_after: int
    kept: dict[str, int] = Field(default_factory=dict, description="Number of kept nodes by reason code.")


class OutputError(Record):
    """Difference of one output of the folded network from the original's, beside the original's rounding noise."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    error: float = Field(description="Maximum absolute difference, divided by the output's range.")
    noise: float = Field(
        description="The same of the original alone, where the input moves by one unit in the last place."
    )
    allowed: float = Field(description="The largest error that passes verification.")


class Adaptation(Record):
    """The samples from which `normfold adapt` recalibrated a bundle's statistics."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    from_version: int = Field(gt=0, le=MAX_VERSION, description="The version that was adapted.")
    samples: int = Field(gt=0, description="Number of samples, without labels.")
    prior: float = Field(ge=0, description="Weight of the training statistics, as a number of samples.")


class Manifest(Record):
    """All facts that a server needs about a bundle."""

    schema_version: int = 1
    name: str
    version: int = Field(gt=0, le=MAX_VERSION)
    created: str = Field(description="UTC, ISO 8601.")
    copy_of: int | None = Field(
        default=None,
        gt=0,
        le=MAX_VERSION,
        exclude_if=lambda version: version is None,
        description="The version that a rollback copied to this one; absent for other bundles.",
    )
    adapted: Adaptation | None = Field(
        default=None,
        exclude_if=lambda adaptation: adaptation is None,
        description="Adaptation of the statistics to new inputs; absent where they are those of training.",
    )
    precision: Precision | None = Field(
        default=None,
        exclude_if=lambda precision: precision is None,
        description="Precision of `model.onnx`, and its comparison with float32; absent where it is the source's.",
    )
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    takes_pixels: bool = Field(
        default=False,
        description="The one input is 8-bit pixels, 0 to 255 at full intensity; the network standardises them itself.",
    )
    batchable: bool = Field(description="Rows are independent: a server may run several requests in one batch.")
    opset: int
    card: SourceCard = Field(default_factory=SourceCard)
    fold: FoldSummary
    verification: dict[str, OutputError] = Field(description="Of the folded float32 network, by output.")
    versions: dict[str, str] = Field(description="Version by package, at export.")
    files: dict[str, str] = Field(description="Hexadecimal sha256 by file of the bundle.")

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

    @field_validator("precision")
    @classmethod
    def _check_precision_schema(cls, precision: Precision | None, info: ValidationInfo) -> Precision | None:
        if precision is not None and info.data.get("schema_version", SCHEMA_VERSION) < PRECISION_SCHEMA_VERSION:
            raise ValueError(f"it came with schema version {PRECISION_SCHEMA_VERSION}")
        return precision

    @field_validator("card")
    @classmethod
    def _check_card(cls, card: SourceCard, info: ValidationInfo) -> SourceCard:
        if card.schema_version > info.data.get("schema_version", SCHEMA_VERSION):
            raise ValueError(f"it holds what came with schema version {card.schema_version}")
        return card

    def copy_as_version(self, version: int, created: str) -> Manifest:
        """Return the manifest of a copy of this bundle, as a rollback makes it.

        Args:
            version: the copy's, 1 to MAX_VERSION.
            created: time of the copy, UTC, ISO 8601.

        Raises:
            ValidationError: `version` is out of range.
        """
        changes = {
            "schema_version": max(2, self.schema_version),
            "version": version,
            "created": created,
            "copy_of": self.version,
        }
        return Manifest.model_validate(dict(self) | changes)


def class_axis(shape: tuple[int, ...]) -> int:
    """Return the axis of the classes in logits: 1 for masks, (rows, classes, height, width), otherwise the last."""
    return 1 if len(shape) == 4 else len(shape) - 1


def read_manifest(path: Path) -> Manifest:
    """Read a manifest of this or an older schema version.

    Raises:
        ManifestError: unreadable, not JSON, a newer schema version, or a wrong field.
    """
    record = read_json_object(path)
    version = record.get("schema_version")
    if type(version) is not int or version < 1:
        raise ManifestError(path, "has no schema_version; it was not written by normfold export.")
    if version > SCHEMA_VERSION:
        raise ManifestError(
            path, f"has schema version {version}; the newest that can be read is {SCHEMA_VERSION}; upgrade normfold."
        )
    return validate_record(Manifest, record, path)


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file, which is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
