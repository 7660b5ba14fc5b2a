"""`make release-check`: the versions that it compares, and what it says where they differ."""

from __future__ import annotations

from pathlib import Path

import pytest

import normfold
from scripts import release_check
from scripts.release_check import ReleaseError, check_version

PROJECT = '[project]\nname = "normfold"\nversion = "1.2.3"\n'


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of version 1.2.3."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.3] - 2026-01-01\n\n## [1.2.2] - 2025-01-01\n")
    monkeypatch.setattr(release_check, "ROOT", tmp_path)
    return tmp_path


def test_equal_versions_pass(clone: Path) -> None:  # noqa: ARG001 -- the fixture is what is read
    assert check_version() == "1.2.3"


@pytest.mark.parametrize(
    ("changelog", "top"),
    [("## [1.2.2] - 2025-01-01\n## [1.2.3] - 2026-01-01\n", "1.2.2"), ("## Unreleased\n", "no version")],
)
def test_changelog_of_another_version_is_found(clone: Path, changelog: str, top: str) -> None:
    (clone / "CHANGELOG.md").write_text(changelog)
    with pytest.raises(ReleaseError, match=rf"has the version 1\.2\.3, CHANGELOG\.md begins with {top}\."):
        check_version()


def test_versions_of_this_clone_are_equal() -> None:
    assert check_version() == normfold.__version__


@pytest.mark.slow
def test_tree_that_does_not_build_is_an_error_of_the_release(clone: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="hatchling cannot build the wheel: "):
        release_check.build(tmp_path / "dist", clone)
