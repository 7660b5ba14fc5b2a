"""A repository of three versions, in the folder that the command takes by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from normfold.contract.manifest import FoldSummary
from normfold.contract.source_card import SourceCard
from tests.support.bundles import DIGITS, LABELS, BundleWriter


@pytest.fixture
def card() -> SourceCard:
    """The card of every version of digits."""
    return SourceCard(
        preprocessing=DIGITS,
        labels=LABELS,
        logits=("logits",),
        metrics={"test_accuracy": 0.9916},
        origin="convnet on digits",
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The repository that the command takes by default."""
    return tmp_path / "model_repository"


@pytest.fixture
def digits(root: Path, card: SourceCard) -> BundleWriter:
    """Versions 1 to 3 of digits, which answer with their numbers."""
    writer = BundleWriter(root)
    for version in (1, 2, 3):
        writer.digits(version, bias=float(version), card=card, fold=FoldSummary(batchnorm_before=4, batchnorm_after=1))
    return writer
