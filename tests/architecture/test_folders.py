"""A folder holds at most twelve modules, unless its files are alike: one for each operator or architecture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.paths import modules

MAX_MODULES = 12

UNLIMITED = frozenset({"export/fold/operators", "models/architectures", "tests/export/fold/operators"})
"""Folders of one file for each operator, and each architecture."""


def crowded(paths: list[Path]) -> dict[str, int]:
    """Return the folders that hold too many modules, and how many."""
    counts = Counter(path.parent.as_posix() for path in paths)
    return {folder: count for folder, count in counts.items() if count > MAX_MODULES and folder not in UNLIMITED}


def test_no_folder_holds_more_than_twelve_modules() -> None:
    assert not crowded(modules())


@pytest.mark.parametrize(
    ("folder", "count", "is_crowded"),
    [("service", 12, False), ("service", 13, True), ("export/fold/operators", 30, False), ("tests/service", 13, True)],
)
def test_thirteenth_module_is_found(folder: str, count: int, is_crowded: bool) -> None:
    planted = [Path(folder, f"module_{number}.py") for number in range(count)]
    assert bool(crowded(planted)) is is_crowded
