"""What became of the models of a Triton repository, in sentences for a terminal and as records for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normfold.export.triton.import_repository import ModelImport
    from normfold.export.triton.write_config import WrittenConfig


def import_lines(model: ModelImport, dry_run: bool) -> Iterator[str]:
    """Yield what became of a model, and below it what its configuration says and the bundles do not."""
    if model.problem is not None:
        yield f"{model.name}: {model.outcome}. {model.problem}"
        return
    done = "would be written" if dry_run else "written"
    parts = []
    if model.written:
        parts.append(f"{_versions(model.written)} {done}")
    if model.present:
        parts.append(f"{_versions(model.present)} already there")
    yield f"{model.name}: {', '.join(parts)}."
    yield from (f"  - {note}" for note in model.notes)


def import_record(model: ModelImport) -> dict[str, Any]:
    """Return the outcome of a model for JSON."""
    return {
        "name": model.name,
        "outcome": model.outcome.value,
        "written": list(model.written),
        "present": list(model.present),
        "notes": list(model.notes),
        "problem": model.problem,
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
