"""The state_dir: which state is deleted at the start, and its lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from normfold.service.errors import SettingsError
from normfold.service.workers.state_dir import locked_state_dir


def kept(state: Path, version: str) -> Path:
    """Make what a service left of a version."""
    file = state / "drift" / version / "0123456789abcdef" / "1.samples"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def test_drift_state_of_deleted_versions_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "repository" / "digits" / "2").mkdir(parents=True)
    gone, there, other = (kept(tmp_path / "state", version) for version in ("digits/1", "digits/2", "cats/2"))

    with locked_state_dir(tmp_path / "state", 1, tmp_path / "repository"):
        assert there.exists()
        assert not gone.exists()
        assert not other.exists()


def test_drift_state_is_kept_while_the_repository_is_missing(tmp_path: Path) -> None:
    left = kept(tmp_path / "state", "digits/1")

    with locked_state_dir(tmp_path / "state", 1, tmp_path / "repository"):
        assert left.exists()


def test_state_dir_is_never_shared_by_two_services(tmp_path: Path) -> None:
    with (
        locked_state_dir(tmp_path / "state", 1, tmp_path),
        pytest.raises(SettingsError, match="in use by another"),
        locked_state_dir(tmp_path / "state", 1, tmp_path),
    ):
        pass
