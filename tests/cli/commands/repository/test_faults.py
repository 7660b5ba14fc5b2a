"""What all `normfold repository` commands do with wrong use, with links, and with a disk that fails."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import BundleWriter, file_contents, version_names
from tests.support.command import RunCommand


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
    before = file_contents(tmp_path)

    code, out, err = normfold("repository", *command)

    assert (code, out) == (2, "")
    assert says in " ".join(err.split())
    assert file_contents(tmp_path) == before


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
    assert version_names(digits.root) == ["1", "2", "3"]


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


BASE_INSTALL = """
import sys
for package in ("onnx", "onnx_ir", "onnxruntime", "onnxscript", "safetensors", "torch"):
    sys.modules[package] = None
for package in ("models", "service"):
    sys.modules[f"normfold.{package}"] = None
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
