"""The weights file that a run starts from: what is recorded of it, and loading it into a new network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from normfold.contract.source_card import WeightsRecord
from normfold.models.errors import WeightsError
from normfold.models.weight_files.load import WeightsFile, find_file, load_weights
from normfold.models.weight_files.names import COUNTER
from normfold.models.weight_files.notes import list_names
from normfold.models.weight_files.safetensors_file import INDEX_SUFFIX

STARTING = ", starting from "
"""In the origin of a source card, before the weights that the run started from."""

SHOWN_DIGITS = 12
"""Digits of a sha256 that a sentence shows."""


class InitialWeights(BaseModel):
    """The weights file that a run started from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="Of the file, or of a run folder, as it was given.")
    sha256: str = Field(description="Of the file, hexadecimal; of shards, of their bytes one after the other.")
    weights_key: str | None = Field(default=None, description="Of the state dict in the file.")
    strip_prefix: str | None = Field(default=None, description="Before the network's names in the file.")
    partial: bool = Field(default=False, description="Only what fits was loaded.")
    taken: int = Field(default=0, description="Number of the network's tensors that are the file's.")
    new: tuple[str, ...] = Field(default=(), description="Names of the tensors that are not: a new head, for example.")

    @property
    def file(self) -> WeightsFile:
        """The file, and how it is read."""
        return WeightsFile(Path(self.path), self.weights_key, self.strip_prefix, self.partial)

    @property
    def in_words(self) -> str:
        """Name and first digits of the sha256, for the origin of a source card."""
        return f"{Path(self.path).name} (sha256 {self.sha256[:SHOWN_DIGITS]}…)"

    @property
    def record(self) -> WeightsRecord:
        """What a source card holds of it."""
        return WeightsRecord(name=Path(self.path).name, sha256=self.sha256)

    def same_source(self, other: InitialWeights | None) -> bool:
        """Return whether another run started from the same file, read in the same way."""
        fields = {"sha256", "weights_key", "strip_prefix", "partial"}
        return other is not None and self.model_dump(include=fields) == other.model_dump(include=fields)


def describe_weights(file: WeightsFile) -> InitialWeights:
    """Return what is recorded of a weights file before it is loaded.

    Raises:
        WeightsError: it is missing, cannot be read, or is a folder without weights.
    """
    return InitialWeights(
        path=str(file.path),
        sha256=_hash(find_file(file.path)),
        weights_key=file.key,
        strip_prefix=file.prefix,
        partial=file.partial,
    )


def start_from(network: nn.Module, weights: InitialWeights, outputs: int) -> InitialWeights:
    """Load a weights file into a network; a head of another size keeps the weights that it has.

    Args:
        network: as built.
        weights: from `describe_weights`.
        outputs: number of the network's outputs for a sample, which tells a head.

    Returns:
        The same with the numbers and names of what was loaded.

    Raises:
        WeightsError: see `load_weights`.

    Warns:
        WeightsWarning: what was chosen, converted or left out.
    """
    loaded = load_weights(network, weights.file, outputs)
    taken = sum(not name.endswith(COUNTER) for name in loaded.taken)
    return weights.model_copy(update={"taken": taken, "new": loaded.new})


def say_what_was_taken(weights: InitialWeights) -> str:
    """Return a sentence on what a network has from a weights file."""
    if not weights.new:
        return f"All {weights.taken} tensors were taken from {weights.path}."
    total = weights.taken + len(weights.new)
    return f"{weights.taken} of {total} tensors were taken from {weights.path}; new are {list_names(weights.new)}."


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        for file in _shards(path) if path.name.endswith(INDEX_SUFFIX) else [path]:
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise WeightsError(path, f"cannot be read: {error.strerror}.") from None
    return digest.hexdigest()


def _shards(index: Path) -> list[Path]:
    """Return the files of an index, or the index alone where it is damaged, which reading it will tell."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        return [index.parent / Path(name).name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [index]
