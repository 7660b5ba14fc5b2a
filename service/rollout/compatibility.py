"""Whether a version can be tried beside another one: it takes the same requests and gives the same outputs."""

from __future__ import annotations

from normfold.contract.manifest import Manifest, TensorSpec
from normfold.contract.outputs.task import Regression


def describe_difference(candidate: Manifest, serving: Manifest) -> str | None:
    """Return why a version cannot answer the requests of another one, as a sentence; None if it can.

    Clients that name no version do not know which one answers: inputs, outputs, what these mean,
    preprocessing and labels must agree.
    """
    for what, one, other in (
        ("inputs", _describe(candidate.inputs), _describe(serving.inputs)),
        ("outputs", _describe(candidate.outputs), _describe(serving.outputs)),
        ("preprocessing", _preprocessing(candidate), _preprocessing(serving)),
        ("labels", candidate.card.labels, serving.card.labels),
        ("meaning of outputs", _task(candidate), _task(serving)),
        ("logits", candidate.card.logits, serving.card.logits),
    ):
        if one != other:
            shown = f" ({one} and {other})" if what in ("inputs", "outputs") else ""
            return (
                f"Version {candidate.version} of model {candidate.name!r} has other {what} than version "
                f"{serving.version}, which serves{shown}."
            )
    return None


def _describe(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(sorted(f"{spec.name}: {spec.datatype} {list(spec.shape)}" for spec in specs))


def _task(manifest: Manifest) -> object:
    """Return what an output means, without the statistics of training data, which differ between versions."""
    task = manifest.card.task
    if isinstance(task, Regression):
        return task.output, [(target.name, target.unit) for target in task.targets]
    return task


def _preprocessing(manifest: Manifest) -> object:
    return manifest.card.preprocessing, manifest.takes_pixels
