"""`normfold repository`, as an operator meets it: what is printed, what lies on the disk, what a service sees of it."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from normfold.contract.errors import WriteError
from normfold.contract.manifest import MAX_VERSION, FoldSummary, read_manifest
from normfold.contract.source_card import SourceCard
from normfold.export.bundle.reservation import reservation
from normfold.service.app import create_app
from normfold.service.repository.scan import scan
from normfold.service.settings import Settings
from tests.support.bundles import DIGITS, LABELS, BundleWriter
from tests.support.command import RunCommand
from tests.support.infer_bodies import PICTURE
from tests.support.raw_http import open_client
from tests.support.service import answering_version, serve_app
from tests.support.waiting import wait_for

CARD = SourceCard(
    preprocessing=DIGITS,
    labels=LABELS,
    logits=("logits",),
    metrics={"test_accuracy": 0.9916},
    origin="convnet on digits",
)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("NORMFOLD_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The repository that the command takes by default."""
    return tmp_path / "model_repository"


@pytest.fixture
def digits(root: Path) -> BundleWriter:
    """Versions 1 to 3 of digits, which answer with their numbers."""
    writer = BundleWriter(root)
    for version in (1, 2, 3):
        writer.digits(version, bias=float(version), card=CARD, fold=FoldSummary(batchnorm_before=4, batchnorm_after=1))
    return writer


def versions(root: Path, name: str = "digits") -> list[str]:
    return sorted(path.name for path in (root / name).iterdir())


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def answer(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Sit at a terminal and type a line."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(line + "\n"))


def make_old(folder: Path, seconds: float = 7200) -> None:
    then = time.time() - seconds
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))


def test_list_shows_what_manifests_say(normfold: RunCommand, digits: BundleWriter) -> None:
    digits.rows()

    code, out, err = normfold("repository", "list")

    assert (code, err) == (0, "")
    size = sum(path.stat().st_size for path in (digits.root / "digits" / "2").iterdir())
    [row] = [line for line in out.splitlines() if line.startswith("digits/2")]
    assert row.split() == f"digits/2 2026-01-01 00:00 {size / 1000:.1f} kB 1 of 4 0.9916 convnet on digits".split()
    assert any(line.startswith("rows/1 ") for line in out.splitlines())
    assert "rows/1" not in normfold("repository", "list", "digits")[1]


def test_json_output_of_list(normfold: RunCommand, digits: BundleWriter) -> None:
    normfold("repository", "rollback", "digits")

    code, out, _ = normfold("repository", "list", "--json")

    assert code == 0
    [model] = json.loads(out)["models"]
    one, copy = model["versions"][0], model["versions"][-1]
    assert (one["version"], one["copy_of"], one["accuracy"], one["origin"]) == (1, None, 0.9916, "convnet on digits")
    assert (one["batchnorm_before"], one["batchnorm_after"], one["problem"]) == (4, 1, None)
    assert (copy["version"], copy["copy_of"]) == (4, 2)
    assert copy["bytes"] == sum(path.stat().st_size for path in (digits.root / "digits" / "4").iterdir())


def test_list_says_what_is_wrong_and_shows_the_rest(normfold: RunCommand, digits: BundleWriter, tmp_path: Path) -> None:
    model = digits.root / "digits"
    (model / "4").mkdir()
    shutil.copytree(model / "1", model / "5")
    shutil.copytree(model / "1", tmp_path / "elsewhere")
    (model / "6").symlink_to(tmp_path / "elsewhere")
    (model / "2" / "model.onnx").unlink()
    (model / "7.partial").mkdir()
    (model / "8.partial").mkdir()
    make_old(model / "8.partial")
    (model / "9.deleted").mkdir()
    (digits.root / "alias").symlink_to("digits")
    (digits.root / "outside").symlink_to(tmp_path)

    code, out, _ = normfold("repository", "list")

    assert code == 0
    lines = [line for line in out.splitlines() if ": " in line]
    assert lines == [
        f"alias: The folder {str(Path('model_repository/alias'))!r} is a symbolic link to the model 'digits', "
        "and is left alone.",
        "digits/2: The file 'model.onnx' cannot be read: No such file or directory.",
        "digits/4: The file 'manifest.json' cannot be read: No such file or directory.",
        "digits/5: The manifest is about 'digits/1', but lies in 'digits/5'.",
        "digits/6: It is a symbolic link that leaves the repository.",
        "digits/7.partial: It is being written, or was until less than an hour ago.",
        "digits/8.partial: An interrupted export left it behind; normfold repository prune removes it.",
        "digits/9.deleted: An interrupted deletion left it behind; normfold repository prune removes it.",
        "outside: The folder 'model_repository/outside' is a symbolic link that leaves the repository, "
        "and is left alone.",
    ]
    machine = json.loads(normfold("repository", "list", "--json")[1])["models"]
    assert [one["name"] for one in machine if one["problem"]] == ["alias", "outside"]
    assert [one["version"] for one in machine[1]["versions"] if one["problem"] is None] == [1, 3]


def test_empty_repository_is_listed_without_an_error(normfold: RunCommand, root: Path) -> None:
    root.mkdir()
    (root / "README").write_text("not a model")

    assert normfold("repository", "list")[:2] == (0, "There are no models in 'model_repository'.\n")
    assert json.loads(normfold("repository", "list", "--json")[1])["models"] == []


def test_repository_is_named_by_the_variable_of_the_service(
    normfold: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    BundleWriter(tmp_path / "one").digits()
    BundleWriter(tmp_path / "two").rows()
    monkeypatch.setenv("NORMFOLD_REPOSITORY", str(tmp_path / "one"))

    assert "digits/1" in normfold("repository", "list")[1]
    assert "rows/1" in normfold("repository", "list", "--repository", "two")[1]


def test_rollback_publishes_the_version_before_the_newest_under_a_new_number(
    normfold: RunCommand, digits: BundleWriter
) -> None:
    before = contents(digits.root)

    code, out, _ = normfold("repository", "rollback", "digits")

    assert (code, out) == (0, "digits/4 is a copy of digits/2, its files hard-linked.\n")
    after = contents(digits.root)
    assert before.items() <= after.items()
    copy, source = digits.root / "digits" / "4", digits.root / "digits" / "2"
    assert sorted(path.name for path in copy.iterdir()) == ["manifest.json", "model.onnx"]
    assert (copy / "model.onnx").samefile(source / "model.onnx")
    manifest = read_manifest(copy / "manifest.json")
    assert (manifest.version, manifest.copy_of, manifest.schema_version) == (4, 2, 2)
    assert manifest.card == CARD
    assert manifest.created > "2026-01-01T00:00:00Z"


@pytest.mark.usefixtures("digits")
def test_rollback_to_a_version_and_back_again(normfold: RunCommand) -> None:
    assert json.loads(normfold("repository", "rollback", "digits", "--to", "1", "--json")[1]) == {
        "name": "digits",
        "version": 4,
        "copy_of": 1,
        "bundle": "model_repository/digits/4",
        "linked": True,
    }

    assert normfold("repository", "rollback", "digits")[1].startswith("digits/5 is a copy of digits/3")


def test_rollback_copies_where_files_cannot_have_two_names(
    normfold: RunCommand, digits: BundleWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)

    code, out, _ = normfold("repository", "rollback", "digits")

    assert (code, out) == (0, "digits/4 is a copy of digits/2, its files copied.\n")
    copy, source = (digits.root / "digits" / number / "model.onnx" for number in ("4", "2"))
    assert copy.read_bytes() == source.read_bytes()
    assert not copy.samefile(source)


def test_rollback_of_a_version_made_of_links_gives_files(normfold: RunCommand, digits: BundleWriter) -> None:
    model = digits.root / "digits" / "2" / "model.onnx"
    model.rename(digits.root / ".shared")
    model.symlink_to("../../.shared")

    assert normfold("repository", "rollback", "digits")[0] == 0

    copy = digits.root / "digits" / "4" / "model.onnx"
    assert not copy.is_symlink()
    assert copy.samefile(digits.root / ".shared")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b"x"), "its sha256 differs from the manifest"),
        (lambda folder: (folder / "model.onnx").unlink(), "'model.onnx' cannot be read"),
        (lambda folder: (folder / "manifest.json").unlink(), "'manifest.json' cannot be read"),
        (lambda folder: (folder / "more.bin").touch(), "holds 'more.bin', which the manifest does not list"),
    ],
)
def test_a_damaged_version_is_not_rolled_back_to(
    normfold: RunCommand, digits: BundleWriter, damage: Any, says: str
) -> None:
    damage(digits.root / "digits" / "2")

    code, out, err = normfold("repository", "rollback", "digits")

    assert (code, out) == (1, "")
    assert err.startswith("error: Version 2 of 'digits' is damaged, and nothing was written: ")
    assert says in err
    assert versions(digits.root) == ["1", "2", "3"]


def test_a_rollback_that_is_cut_off_leaves_nothing(
    normfold: RunCommand, digits: BundleWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)

    code, _, err = normfold("repository", "rollback", "digits")

    assert code == 3
    assert err == "error: Cannot write 'model_repository/digits': no space left on device.\n"
    assert versions(digits.root) == ["1", "2", "3"]


def test_rollback_after_the_highest_version_is_an_error(normfold: RunCommand, root: Path) -> None:
    writer = BundleWriter(root)
    writer.digits(1)
    writer.digits(MAX_VERSION)

    code, _, err = normfold("repository", "rollback", "digits")

    assert code == 2
    assert "There is no free version of 'digits': the largest is 999999999." in err
    assert versions(root) == ["1", str(MAX_VERSION)]


def test_delete_removes_versions_and_reports_the_freed_bytes(normfold: RunCommand, digits: BundleWriter) -> None:
    size = sum(path.stat().st_size for number in "12" for path in (digits.root / "digits" / number).iterdir())

    code, out, err = normfold("repository", "delete", "digits", "2", "1", "2", "--yes")

    assert (code, out, err) == (0, f"2 versions deleted, {size / 1000:.1f} kB freed.\n", "")
    assert versions(digits.root) == ["3"]


def test_delete_asks_first(normfold: RunCommand, digits: BundleWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "n")
    code, out, err = normfold("repository", "delete", "digits", "1", "2")
    assert (code, out) == (1, "")
    assert "Delete digits/1, digits/2 and free " in err
    assert "Nothing was deleted." in err
    assert versions(digits.root) == ["1", "2", "3"]

    answer(monkeypatch, "y")
    assert normfold("repository", "delete", "digits", "1", "2")[0] == 0
    assert versions(digits.root) == ["3"]


@pytest.mark.parametrize("command", [("delete", "digits", "1"), ("prune", "--keep", "1")])
def test_delete_without_a_terminal_needs_the_option_yes(
    normfold: RunCommand, digits: BundleWriter, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))

    code, _, err = normfold("repository", *command)

    assert code == 2
    assert "pass --yes to confirm" in err
    assert versions(digits.root) == ["1", "2", "3"]
    assert normfold("repository", *command, "--yes")[0] == 0
    assert "1" not in versions(digits.root)


def test_delete_of_the_last_servable_version_needs_its_option(normfold: RunCommand, digits: BundleWriter) -> None:
    (digits.root / "digits" / "3" / "model.onnx").unlink()

    code, _, err = normfold("repository", "delete", "digits", "1", "2", "--yes")
    assert code == 2
    assert err == "error: No version of 'digits' that can answer would be left; pass --last to confirm.\n"
    assert versions(digits.root) == ["1", "2", "3"]
    assert normfold("repository", "delete", "digits", "3", "--yes")[0] == 0

    assert normfold("repository", "delete", "digits", "1", "2", "--yes")[0] == 2
    assert normfold("repository", "delete", "digits", "1", "2", "--yes", "--last")[0] == 0
    assert list(digits.root.iterdir()) == []


@pytest.mark.usefixtures("digits")
def test_delete_of_the_newest_version_warns(normfold: RunCommand) -> None:
    code, _, err = normfold("repository", "delete", "digits", "3", "--yes")

    assert code == 0
    assert "warning: digits/3 is the newest" in err


def test_deleted_version_is_renamed_before_its_first_file_is_removed(
    normfold: RunCommand, digits: BundleWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, seen = shutil.rmtree, []

    def look_and_remove(folder: Path) -> None:
        seen.append((sorted(scan(digits.root).models["digits"]), sorted(path.name for path in folder.iterdir())))
        right(folder)

    monkeypatch.setattr(shutil, "rmtree", look_and_remove)

    normfold("repository", "delete", "digits", "1", "2", "--yes")

    assert seen == [([2, 3], ["manifest.json", "model.onnx"]), ([3], ["manifest.json", "model.onnx"])]


def test_a_deletion_that_is_cut_off_is_finished_by_prune(
    normfold: RunCommand, digits: BundleWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(_: Path) -> None:
        sys.exit(143)

    with monkeypatch.context() as cut_off:
        cut_off.setattr(shutil, "rmtree", terminated)
        assert normfold("repository", "delete", "digits", "1", "--yes")[0] == 143
    assert versions(digits.root) == ["1.deleted", "2", "3"]
    assert list(scan(digits.root).models["digits"]) == [2, 3]

    assert normfold("repository", "prune", "--keep", "9", "--yes")[1].splitlines()[-1].startswith("1 folder deleted, ")

    assert versions(digits.root) == ["2", "3"]


def test_version_can_be_deleted_again_over_the_rest_of_an_earlier_deletion(
    normfold: RunCommand, digits: BundleWriter
) -> None:
    shutil.copytree(digits.root / "digits" / "1", digits.root / "digits" / "1.deleted")

    assert normfold("repository", "delete", "digits", "1", "--yes")[0] == 0

    assert versions(digits.root) == ["2", "3"]


def test_delete_of_a_linked_version_removes_the_link_alone(normfold: RunCommand, digits: BundleWriter) -> None:
    data = (digits.root / "digits" / "1").rename(digits.root / ".data")
    (digits.root / "digits" / "1").symlink_to("../.data")

    assert normfold("repository", "delete", "digits", "1", "--yes")[:2] == (0, "1 version deleted, 0 bytes freed.\n")

    assert versions(digits.root) == ["2", "3"]
    assert (data / "model.onnx").exists()


def test_version_with_one_wrong_byte_does_not_count_as_servable(normfold: RunCommand, digits: BundleWriter) -> None:
    model = digits.root / "digits" / "3" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)

    assert "sha256" not in normfold("repository", "list")[1]
    assert "its sha256 differs" in normfold("repository", "list", "--check")[1]
    assert normfold("repository", "delete", "digits", "1", "2", "--yes")[0] == 2
    assert normfold("repository", "prune", "--keep", "1", "--yes")[0] == 0
    assert versions(digits.root) == ["2", "3"]


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
    assert versions(digits.root) == ["1", "2", "3"]

    assert json.loads(normfold("repository", "prune", "other", "--keep", "1", "--yes", "--json")[1]) == {
        "deleted": ["other/1"],
        "freed_bytes": other,
        "dry_run": False,
    }
    assert normfold("repository", "prune", "--keep", "2", "--yes")[1].splitlines()[-1].startswith("1 folder deleted")
    assert (versions(digits.root), versions(digits.root, "other")) == (["2", "3"], ["5"])
    assert normfold("repository", "prune", "--keep", "2")[:2] == (0, "There is nothing to delete.\n")


def test_prune_does_not_count_versions_that_cannot_be_served(normfold: RunCommand, digits: BundleWriter) -> None:
    for broken in "35":
        (digits.root / "digits" / broken).mkdir(exist_ok=True)
        (digits.root / "digits" / broken / "manifest.json").write_text("{}")
    digits.digits(4)

    normfold("repository", "prune", "--keep", "2", "--yes")
    assert versions(digits.root) == ["2", "3", "4", "5"]

    normfold("repository", "prune", "--keep", "1", "--yes")
    assert versions(digits.root) == ["4", "5"]


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

    assert versions(digits.root) == sorted(["1", "2", "3", "8.partial", "9.partial", str(number)])


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
    assert versions(digits.root) == ["1", "2", "3"]


def test_prune_leaves_folders_of_other_models_alone(normfold: RunCommand, digits: BundleWriter) -> None:
    (digits.root / "alias").symlink_to("digits")

    code, _, err = normfold("repository", "prune", "--keep", "2", "--yes")

    assert code == 0
    assert "'model_repository/alias' is a symbolic link to the model 'digits', and is left alone" in err
    assert versions(digits.root) == ["2", "3"]
    assert normfold("repository", "delete", "alias", "2", "--yes")[0] == 2
    assert versions(digits.root) == ["2", "3"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("list", "none"), "There is no model 'none' in 'model_repository'; there are digits."),
        (("rollback", "../digits"), "There is no model '../digits' in 'model_repository'; there are digits."),
        (("rollback", ".."), "There is no model '..'"),
        (("delete", "digits/1", "1", "--yes"), "There is no model 'digits/1'"),
        (("prune", ".", "--keep", "1", "--yes"), "There is no model '.'"),
        (("delete", "digits", "1", "9", "--yes"), "There is no version 9 of 'digits'; there are 1, 2, 3."),
        (("rollback", "digits", "--to", "0"), "There is no version 0 of 'digits'; there are 1, 2, 3."),
        (("rollback", "digits", "--to", "3"), "Version 3 of 'digits' is the newest already"),
        (("rollback", "outside"), "is a symbolic link that leaves the repository"),
        (("delete", "outside", "1", "--yes"), "is a symbolic link that leaves the repository"),
        (("prune", "outside", "--keep", "1", "--yes"), "is a symbolic link that leaves the repository"),
        (("list", "--repository", "none"), "There is no folder 'none'; name the repository with --repository."),
        (("list", "--repository", "file"), "There is no folder 'file'"),
        (("prune", "--keep", "0"), "Invalid value for '--keep'"),
    ],
)
def test_wrong_use_changes_nothing(
    normfold: RunCommand, digits: BundleWriter, tmp_path: Path, command: tuple[str, ...], says: str
) -> None:
    if "outside" in command:
        shutil.copytree(digits.root / "digits", tmp_path / "elsewhere")
        (digits.root / "outside").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").touch()
    before = contents(tmp_path)

    code, out, err = normfold("repository", *command)

    assert (code, out) == (2, "")
    assert says in " ".join(err.split())
    assert contents(tmp_path) == before


def test_rollback_of_the_only_version_is_an_error(normfold: RunCommand, root: Path) -> None:
    BundleWriter(root).digits()

    code, _, err = normfold("repository", "rollback", "digits")

    assert (code, err) == (2, "error: There is no version of 'digits' before the newest to go back to.\n")


def test_a_version_that_leaves_the_repository_is_not_followed(
    normfold: RunCommand, digits: BundleWriter, tmp_path: Path
) -> None:
    shutil.move(digits.root / "digits" / "1", tmp_path / "elsewhere")
    (digits.root / "digits" / "1").symlink_to(tmp_path / "elsewhere")

    code, _, err = normfold("repository", "rollback", "digits", "--to", "1")

    assert code == 1
    assert "'manifest.json' is a symbolic link that leaves the repository" in err
    assert normfold("repository", "delete", "digits", "1", "--yes")[0] == 0
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["manifest.json", "model.onnx"]


@pytest.mark.parametrize("command", [("rollback", "digits"), ("delete", "digits", "1", "--yes")])
def test_read_only_file_system_ends_with_3_in_one_sentence(
    normfold: RunCommand, digits: BundleWriter, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "rename", refuse)

    code, out, err = normfold("repository", *command)

    assert (code, out) == (3, "")
    assert err.startswith("error: Cannot write 'model_repository/digits")
    assert err.endswith(": read-only file system.\n")
    assert versions(digits.root) == ["1", "2", "3"]


@pytest.mark.usefixtures("digits")
def test_a_folder_that_cannot_be_read_ends_with_3_in_one_sentence(
    normfold: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Path.iterdir

    def list_unless_locked(path: Path) -> Any:
        if path.name in locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return right(path)

    monkeypatch.setattr(Path, "iterdir", list_unless_locked)
    locked = ["digits"]
    assert normfold("repository", "rollback", "digits") == (
        3,
        "",
        "error: Cannot read 'model_repository/digits': permission denied.\n",
    )
    code, out, _ = normfold("repository", "list")
    assert (code, out) == (0, "digits: Cannot read 'model_repository/digits': permission denied.\n")
    locked = ["model_repository"]
    assert normfold("repository", "list")[0] == 3


@pytest.mark.slow
def test_a_service_that_polls_answers_with_the_version_rolled_back_to_and_no_request_fails(
    normfold: RunCommand, digits: BundleWriter
) -> None:
    settings = Settings(repository=digits.root, provider="cpu", model_control="poll", poll_interval_s=0.05)
    statuses: set[int] = set()
    stop = threading.Event()

    def ask() -> None:
        with open_client(service.client.base_url) as client:
            while not stop.is_set():
                statuses.add(client.post("/v2/models/digits/infer", json=PICTURE).status_code)

    with serve_app(create_app(settings), settings) as service:
        service.wait_until_loaded()
        assert answering_version(service) == 3
        thread = threading.Thread(target=ask)
        thread.start()
        try:
            assert normfold("repository", "rollback", "digits")[0] == 0
            wait_for(lambda: answering_version(service) == 2)
            assert service.client.get("/v2/models/digits").json()["versions"] == ["1", "2", "3", "4"]

            assert normfold("repository", "prune", "--keep", "1", "--yes")[0] == 0
            wait_for(lambda: service.client.get("/v2/models/digits").json()["versions"] == ["4"])
            assert answering_version(service) == 2
        finally:
            stop.set()
            thread.join(timeout=20)
    assert statuses == {200}


BASE_INSTALL = """
import sys
for package in ("onnx", "onnx_ir", "onnxruntime", "onnxscript", "safetensors", "torch", "models", "service"):
    sys.modules[package] = None
from normfold.cli.main import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [("list",), ("rollback", "digits"), ("delete", "digits", "1", "--yes"), ("prune", "--keep", "1", "--yes")],
)
def test_repository_commands_need_the_base_install_alone(digits: BundleWriter, command: tuple[str, ...]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BASE_INSTALL, "repository", *command, "--repository", str(digits.root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout
