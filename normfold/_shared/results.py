"""Parts that the results of the public API share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from normfold.contract.precision.record import Precision
    from normfold.export.verify.verify import Verification


def verification_sentence(verification: Verification | None) -> str:
    """Return whether a folded model was compared with the original, and how near it is."""
    if verification is None:
        return "Not verified."
    if not verification.passes:
        return "The two models differ."
    worst = max((found.ratio for found in verification.outputs.values() if found.noise), default=None)
    sentence = "Verified." if worst is None else f"Verified: error at most {worst:.1f} × noise."
    constant = len(verification.notes)
    return f"{sentence} {constant} of {len(verification.outputs)} outputs were constant." if constant else sentence


def bundle_precision(folder: Path) -> Precision | None:
    """Return the precision of the bundle in a folder; None if that is the source's, or the folder is no bundle's."""
    from normfold.contract.manifest import MANIFEST_NAME, read_manifest
    from normfold.contract.record import ManifestError

    if not (folder / MANIFEST_NAME).is_file():
        return None
    try:
        return read_manifest(folder / MANIFEST_NAME).precision
    except ManifestError:
        return None


def unfolded_page(bundle: Path, verification: Verification) -> str | None:
    """Return the page of a bundle's fold for notebooks; None where the bundle has no unfolded model."""
    from normfold.contract.manifest import UNFOLDED_NAME
    from normfold.display.pages.facts import gather_facts
    from normfold.display.pages.fold_page import fold_page
    from normfold.display.pages.notebook import embed

    model = bundle / UNFOLDED_NAME
    if not model.is_file():
        return None
    facts = gather_facts(model, False, lambda _: None)
    name, precision = f"{bundle.parent.name}/{bundle.name}", bundle_precision(bundle)
    return embed(fold_page(replace(facts, name=name, verification=verification, precision=precision)))
