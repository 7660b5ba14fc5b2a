"""`normfold repository prune`: the versions that it keeps, the folders that it removes, the bytes that it frees."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from normfold.contract.errors import WriteError
from normfold.export.bundle.reservation import reservation
from tests.support.bundles import BundleWriter, make_old, version_names
from tests.support.command import RunCommand


def test_prune_keeps_the_highest_of_each_model(normfold: RunCommand, digits: BundleWriter) -> None:
    digits.digits(1, name="other")
    digits.digits(5, name="other")
    size, other = (
        sum(path.stat().st_size for path in (digits.root / name / "1").iterdir()) for name in ("digits", "other")
    )

    code, out, _ = normfold("repository", "prune", "--keep", "2", "--dry-run")
    assert code == 0
    assert out.splitlines() == [
        f"digits/1  {size / 1000:.1f} kB",
        f"Nothing was deleted; 1 folder would be deleted, {size / 1000:.1f} kB freed.",
    ]
    assert version_names(digits.root) == ["1", "2", "3"]

    assert json.loads(normfold("repository", "prune", "other", "--keep", "1", "--yes", "--json")[1]) == {
        "deleted": ["other/1"],
        "freed_bytes": other,
        "dry_run": False,
    }
    assert normfold("repository", "prune", "--keep", "2", "--yes")[1].splitlines()[-1].startswith("1 folder deleted")
    assert (version_names(digits.root), version_names(digits.root, "other")) == (["2", "3"], ["5"])
    assert normfold("repository", "prune", "--keep", "2")[:2] == (0, "There is nothing to delete.\n")


def test_prune_does_not_count_versions_that_cannot_be_served(normfold: RunCommand, digits: BundleWriter) -> None:
    for broken in "35":
        (digits.root / "digits" / broken).mkdir(exist_ok=True)
        (digits.root / "digits" / broken / "manifest.json").write_text("{}")
    digits.digits(4)

    normfold("repository", "prune", "--keep", "2", "--yes")
    assert version_names(digits.root) == ["2", "3", "4", "5"]

    normfold("repository", "prune", "--keep", "1", "--yes")
    assert version_names(digits.root) == ["4", "5"]


def test_file_shared_with_a_kept_version_frees_no_bytes(normfold: RunCommand, digits: BundleWriter) -> None:
    normfold("repository", "rollback", "digits", "--to", "1")
    folders = {number: digits.root / "digits" / str(number) for number in (1, 2, 3)}
    own = (folders[1] / "manifest.json").stat().st_size
    whole = sum(path.stat().st_size for number in (2, 3) for path in folders[number].iterdir())

    out = normfold("repository", "prune", "--keep", "1", "--dry-run", "--json")[1]
    assert json.loads(out)["freed_bytes"] == own + whole

    everything = sum(path.stat().st_size for path in (*folders[1].iterdir(), digits.root / "digits/4/manifest.json"))
    out = normfold("repository", "delete", "digits", "1", "2", "3", "4", "--yes", "--last", "--json")[1]
    assert json.loads(out)["freed_bytes"] == everything + whole


def test_prune_removes_abandoned_folders_and_spares_those_being_written(
    normfold: RunCommand, digits: BundleWriter
) -> None:
    model = digits.root / "digits"
    for name in ("7.partial", "8.partial", "9.partial"):
        shutil.copytree(model / "1", model / name)
        make_old(model / name)
    os.utime(model / "8.partial" / "model.onnx")  # a large file that is still growing
    os.utime(model / "9.partial")  # a file that has just been begun, or linked

    with reservation(digits.root, "digits", None) as (living, number):
        assert normfold("repository", "prune", "--keep", "3", "--yes")[0] == 0
        shutil.copy(model / "1" / "model.onnx", living)

    assert version_names(digits.root) == sorted(["1", "2", "3", "8.partial", "9.partial", str(number)])


def test_an_export_whose_folder_was_removed_fails_and_leaves_nothing(
    normfold: RunCommand, digits: BundleWriter
) -> None:
    def export_slowly() -> None:
        with reservation(digits.root, "digits", None) as (folder, _):
            (folder / "model.onnx").touch()
            make_old(folder)
            assert normfold("repository", "prune", "--keep", "3", "--yes")[0] == 0

    with pytest.raises(WriteError, match="no such file"):
        export_slowly()
    assert version_names(digits.root) == ["1", "2", "3"]


def test_prune_leaves_folders_of_other_models_alone(normfold: RunCommand, digits: BundleWriter) -> None:
    (digits.root / "alias").symlink_to("digits")

    code, _, err = normfold("repository", "prune", "--keep", "2", "--yes")

    assert code == 0
    assert "'model_repository/alias' is a symbolic link to the model 'digits', and is left alone" in err
    assert version_names(digits.root) == ["2", "3"]
    assert normfold("repository", "delete", "alias", "2", "--yes")[0] == 2
    assert version_names(digits.root) == ["2", "3"]
