"""`normfold repository delete`: which versions are removed, and what must be confirmed first."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import pytest

from normfold.service.repository.scan import scan
from tests.support.bundles import BundleWriter, version_names
from tests.support.command import RunCommand, in_one_line


def answer(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Sit at a terminal and type a line."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(line + "\n"))


def test_delete_removes_versions_and_reports_the_freed_bytes(normfold: RunCommand, digits: BundleWriter) -> None:
    size = sum(path.stat().st_size for number in "12" for path in (digits.root / "digits" / number).iterdir())

    code, out, err = normfold("repository", "delete", "digits", "2", "1", "2", "--yes")

    assert (code, out, err) == (0, f"2 versions deleted, {size / 1000:.1f} kB freed.\n", "")
    assert version_names(digits.root) == ["3"]


def test_delete_asks_first(normfold: RunCommand, digits: BundleWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "n")
    code, out, err = normfold("repository", "delete", "digits", "1", "2")
    assert (code, out) == (1, "")
    assert "Delete digits/1, digits/2 and free " in err
    assert "Nothing was deleted." in err
    assert version_names(digits.root) == ["1", "2", "3"]

    answer(monkeypatch, "y")
    assert normfold("repository", "delete", "digits", "1", "2")[0] == 0
    assert version_names(digits.root) == ["3"]


@pytest.mark.parametrize("command", [("delete", "digits", "1"), ("prune", "--keep", "1")])
def test_delete_without_a_terminal_needs_the_option_yes(
    normfold: RunCommand, digits: BundleWriter, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))

    code, _, err = normfold("repository", *command)

    assert code == 2
    assert "pass --yes to confirm" in err
    assert version_names(digits.root) == ["1", "2", "3"]
    assert normfold("repository", *command, "--yes")[0] == 0
    assert "1" not in version_names(digits.root)


def test_delete_of_the_last_servable_version_needs_its_option(normfold: RunCommand, digits: BundleWriter) -> None:
    (digits.root / "digits" / "3" / "model.onnx").unlink()

    code, _, err = normfold("repository", "delete", "digits", "1", "2", "--yes")
    assert code == 2
    assert err == "error: No version of 'digits' that can answer would be left; pass --last to confirm.\n"
    assert version_names(digits.root) == ["1", "2", "3"]
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
    assert version_names(digits.root) == ["1.deleted", "2", "3"]
    assert list(scan(digits.root).models["digits"]) == [2, 3]

    assert normfold("repository", "prune", "--keep", "9", "--yes")[1].splitlines()[-1].startswith("1 folder deleted, ")

    assert version_names(digits.root) == ["2", "3"]


def test_version_can_be_deleted_again_over_the_rest_of_an_earlier_deletion(
    normfold: RunCommand, digits: BundleWriter
) -> None:
    shutil.copytree(digits.root / "digits" / "1", digits.root / "digits" / "1.deleted")

    assert normfold("repository", "delete", "digits", "1", "--yes")[0] == 0

    assert version_names(digits.root) == ["2", "3"]


def test_delete_of_a_linked_version_removes_the_link_alone(normfold: RunCommand, digits: BundleWriter) -> None:
    data = (digits.root / "digits" / "1").rename(digits.root / ".data")
    (digits.root / "digits" / "1").symlink_to("../.data")

    assert normfold("repository", "delete", "digits", "1", "--yes")[:2] == (0, "1 version deleted, 0 bytes freed.\n")

    assert version_names(digits.root) == ["2", "3"]
    assert (data / "model.onnx").exists()


def test_version_with_one_wrong_byte_does_not_count_as_servable(normfold: RunCommand, digits: BundleWriter) -> None:
    model = digits.root / "digits" / "3" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)

    assert "sha256" not in normfold("repository", "list")[1]
    assert "its sha256 differs" in in_one_line(normfold("repository", "list", "--check")[1])
    assert normfold("repository", "delete", "digits", "1", "2", "--yes")[0] == 2
    assert normfold("repository", "prune", "--keep", "1", "--yes")[0] == 0
    assert version_names(digits.root) == ["2", "3"]
