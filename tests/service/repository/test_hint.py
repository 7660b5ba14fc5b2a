"""The folder that the setting `repository` may have meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from normfold.service.repository.hint import hint_at_repository
from tests.support.bundles import BundleWriter
from tests.support.service import StartService


@pytest.mark.parametrize("given", ["repository/digits", "repository/digits/1", "repositry", "Repository"])
def test_folder_near_a_repository_is_asked_for(
    bundles: BundleWriter, start: StartService, tmp_path: Path, given: str
) -> None:
    bundles.digits()
    error = start(tmp_path / given).client.get("/v2/health/ready").json()["error"]
    assert error.endswith(f" Did you mean {str(tmp_path / 'repository')!r}?")


@pytest.mark.parametrize("given", ["repository", "empty", "nothing/of/it", "file", "1", "repository/digits/model.onnx"])
def test_folder_that_is_near_nothing_has_no_hint(bundles: BundleWriter, tmp_path: Path, given: str) -> None:
    bundles.digits()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "1").mkdir()
    assert hint_at_repository(tmp_path / given) == ""
