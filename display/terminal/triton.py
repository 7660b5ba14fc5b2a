"""What became of the models of a Triton repository, in sentences for a terminal and as records for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normfold.contract.manifest import Manifest
    from normfold.export.triton.import_repository import ModelImport
    from normfold.export.triton.write_config import WrittenConfig


def import_lines(model: ModelImport, dry_run: bool) -> Iterator[str]:
    """Yield what became of a model, and below it what its configuration says and the bundles do not."""
    if model.problem is not None:
        yield f"{model.name}: {model.outcome}. {model.problem}"
        return
    parts = []
    if model.written:
        numbers = tuple(manifest.version for manifest in model.written)
        parts.append(f"{_versions(numbers)} {'would be written' if dry_run else 'written'}")
    if model.present:
        parts.append(f"{_versions(model.present)} already there")
    yield f"{model.name}: {', '.join(parts)}."
    yield from (f"  {_proof_sentence(manifest)}" for manifest in model.written)
    yield from (f"  - {note}" for note in model.notes)


def _proof_sentence(manifest: Manifest) -> str:
    """Return how many nodes were folded, and the error that is nearest to what is allowed."""
    before, folded = manifest.fold.batchnorm_before, manifest.fold.batchnorm_before - manifest.fold.batchnorm_after
    sentence = f"Version {manifest.version}: {folded} of {before} BatchNormalization nodes folded"
    errors = manifest.verification.values()
    if not errors:
        return f"{sentence}."
    worst = max(errors, key=lambda one: one.error / one.allowed if one.allowed else 0.0)
    return f"{sentence}; verified: error {worst.error:.2g}, allowed {worst.allowed:.2g}."


def import_record(model: ModelImport) -> dict[str, Any]:
    """Return the outcome of a model for JSON."""
    return {
        "name": model.name,
        "outcome": model.outcome.value,
        "written": [_bundle_record(manifest) for manifest in model.written],
        "present": list(model.present),
        "notes": list(model.notes),
        "problem": model.problem,
    }


def _bundle_record(manifest: Manifest) -> dict[str, Any]:
    return {
        "version": manifest.version,
        "batchable": manifest.batchable,
        "fold": manifest.fold.model_dump(),
        "verification": {name: found.model_dump() for name, found in manifest.verification.items()},
    }


def import_summary(models: Iterable[ModelImport]) -> str:
    """Return how many models had which outcome."""
    outcomes = [model.outcome.value for model in models]
    return ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes)) + "."


def config_record(config: WrittenConfig) -> dict[str, Any]:
    """Return what was written for Triton, for JSON."""
    return {"name": config.name, "config": str(config.path), "notes": list(config.notes)}


def _versions(numbers: tuple[int, ...]) -> str:
    return f"version{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
