"""`normfold repository check` and `list --verify`: files that are not what was exported."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.support.bundles import BundleWriter
from tests.support.command import RunCommand, in_one_line


def test_check_of_a_whole_repository_is_0(normfold: RunCommand, digits: BundleWriter) -> None:
    digits.rows()
    (digits.root / "digits" / "9.deleted").mkdir()

    code, out, err = normfold("repository", "check")

    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "4 versions as exported, 0 not."


@pytest.mark.parametrize("options", [("repository", "check"), ("repository", "check", "digits")])
def test_check_finds_a_file_that_was_changed(
    normfold: RunCommand, digits: BundleWriter, options: tuple[str, ...]
) -> None:
    digits.rows()
    path = digits.root / "digits" / "2" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    code, out, _ = normfold(*options)

    assert code == 1
    assert out.splitlines()[0].startswith("digits/2: The file 'model.onnx' is not the one that was exported")
    assert out.splitlines()[-1].endswith(" versions as exported, 1 not.")
    assert normfold("repository", "check", "rows")[0] == 0
    record = json.loads(normfold("repository", "check", "--json")[1])
    assert record["is_right"] is False
    assert [one["version"] for one in record["models"][0]["versions"] if one["problem"]] == [2]
    for option in ("--verify", "--check"):
        assert "its sha256 differs" in in_one_line(normfold("repository", "list", option)[1])
    assert "sha256" not in normfold("repository", "list")[1]


def test_check_finds_a_folder_that_was_copied_by_hand_and_a_link(normfold: RunCommand, digits: BundleWriter) -> None:
    shutil.copytree(digits.root / "digits" / "1", digits.root / "digits" / "4")
    (digits.root / "alias").symlink_to("digits")

    code, out, _ = normfold("repository", "check")

    assert code == 1
    assert out.splitlines()[-1] == "3 versions as exported, 2 not."


def test_check_of_an_unknown_model_is_wrong_use(normfold: RunCommand, digits: BundleWriter) -> None:  # noqa: ARG001
    assert normfold("repository", "check", "digit")[0] == 2
