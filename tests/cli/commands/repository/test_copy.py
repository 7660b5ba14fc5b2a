"""`normfold repository copy`: a version from elsewhere under a new number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from normfold.contract.manifest import read_manifest
from tests.support.bundles import BundleWriter, file_contents, version_names
from tests.support.command import RunCommand
from tests.support.service import StartService, answering_version


@pytest.mark.parametrize("moved", [False, True])
def test_copy_from_a_backup_is_served_as_the_newest_version(
    normfold: RunCommand, digits: BundleWriter, tmp_path: Path, start: StartService, moved: bool
) -> None:
    backup = Path(shutil.copytree(digits.root, tmp_path / "backup"), "digits", "2")
    if moved:
        backup = backup.rename(tmp_path / "what was version two")
    shutil.rmtree(digits.root / "digits" / "2")

    code, out, err = normfold("repository", "copy", "digits", str(backup))

    assert (code, err) == (0, "")
    assert " ".join(out.split()) == f"digits/4 is a copy of {str(backup)!r}."
    assert normfold("repository", "check")[0] == 0
    manifest = read_manifest(digits.root / "digits" / "4" / "manifest.json")
    assert (manifest.name, manifest.version, manifest.copy_of) == ("digits", 4, None)
    copied = digits.root / "digits" / "4" / "model.onnx"
    assert copied.stat().st_ino != (backup / "model.onnx").stat().st_ino
    assert answering_version(start(digits.root)) == 2


def test_copy_within_a_model_names_its_version(normfold: RunCommand, digits: BundleWriter) -> None:
    out = normfold("repository", "copy", "digits", str(digits.root / "digits" / "1"), "--json")[1]

    assert json.loads(out) == {"name": "digits", "version": 4, "copy_of": 1, "bundle": "model_repository/digits/4"}


def test_copy_may_have_another_name(normfold: RunCommand, digits: BundleWriter, start: StartService) -> None:
    assert normfold("repository", "copy", "numbers", str(digits.root / "digits" / "3"))[0] == 0

    assert version_names(digits.root, "numbers") == ["1"]
    assert start(digits.root).client.get("/v1/models/numbers").status_code == 200


@pytest.mark.parametrize(
    ("name", "source", "code", "says"),
    [
        ("digits", "damaged", 1, "is damaged, and nothing was written: The file 'model.onnx' is not the one"),
        ("digits", "nothing", 2, "'nothing' is not the folder of a version"),
        ("digits", "model_repository/digits", 2, "name one as REPOSITORY/NAME/VERSION"),
        ("../digits", "model_repository/digits/1", 2, "cannot be served"),
    ],
)
def test_copy_of_what_is_no_right_version_writes_nothing(
    normfold: RunCommand, digits: BundleWriter, tmp_path: Path, name: str, source: str, code: int, says: str
) -> None:
    shutil.copytree(digits.root / "digits" / "1", tmp_path / "damaged")
    (tmp_path / "damaged" / "model.onnx").write_bytes(b"")
    before = file_contents(tmp_path)

    found, _, err = normfold("repository", "copy", name, source)

    assert (found, says in " ".join(err.split())) == (code, True)
    assert file_contents(tmp_path) == before
