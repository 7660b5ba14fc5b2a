"""The generated reference has every setting, option, metric, command, reason code and public name, each described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import normfold
from normfold.contract.manifest import Manifest
from normfold.service.settings import Settings
from scripts.docs_reference import source_tree
from scripts.docs_reference.commands import commands
from scripts.docs_reference.generators import GENERATORS
from scripts.docs_reference.markdown import UndocumentedError, described, first_sentence, table
from scripts.docs_reference.python_api import python_api
from scripts.docs_reference.schemas import manifest
from scripts.docs_reference.service import settings
from scripts.docs_reference.values import default_text
from tests.support.paths import modules


@pytest.mark.parametrize("name", GENERATORS)
def test_generated_part_is_markdown_with_rows(name: str) -> None:
    text = GENERATORS[name]()

    assert text.strip()
    assert "None" not in re.findall(r"\| (\w+) \|", text)


def test_settings_table_has_every_setting_in_order() -> None:
    rows = re.findall(r"^\| `NORMFOLD_(\w+)` \|", settings(), re.MULTILINE)

    assert [row.lower() for row in rows] == list(Settings.model_fields)


def test_commands_have_a_section_each() -> None:
    sections = re.findall(r"^#+ normfold (.+)$", commands(), re.MULTILINE)

    assert {"train", "export", "fold", "serve", "keys", "keys create", "repository rollback"} <= set(sections)
    assert len(sections) == len(set(sections))


def test_manifest_table_has_every_field() -> None:
    assert all(f"| `{name}` |" in manifest() for name in Manifest.model_fields)


def test_text_without_a_description_is_an_error() -> None:
    with pytest.raises(UndocumentedError, match="the setting 'x' has no description"):
        described("  ", "the setting 'x'")


def test_python_api_has_every_public_name() -> None:
    text = python_api()

    assert [name for name in normfold.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_public_name_without_a_docstring_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normfold.fold, "__doc__", None)

    with pytest.raises(UndocumentedError, match=r"normfold\.fold has no description"):
        python_api()


def test_module_list_has_every_module_of_the_packages_once() -> None:
    rows = re.findall(r"^#+ (\S+)$|^\| `(\w+\.py)` \|", source_tree.modules(), re.MULTILINE)
    listed, folder = [], ""
    for heading, name in rows:
        folder = heading or folder
        listed += [f"{folder}/{name}"] if name else []

    assert sorted(listed) == [path.as_posix() for path in modules() if path.parts[0] in source_tree.PACKAGES]


def test_folder_list_has_every_folder_with_modules() -> None:
    listed = re.findall(r"^\| `(\S+)/` \|", source_tree.folders(), re.MULTILINE)

    assert {path.parent.as_posix() for path in modules() if path.parts[0] in source_tree.PACKAGES} <= set(listed)


def test_module_without_a_docstring_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module.py").write_text("x = 1\n")
    monkeypatch.setattr(source_tree, "ROOT", tmp_path)

    with pytest.raises(UndocumentedError, match=r"module\.py has no description"):
        source_tree._summary(Path("module.py"))


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("One sentence.", "One sentence."),
        ("One, of two\nlines. Another.\n\nMore.", "One, of two lines."),
        ("ASGI, version 2.3, in full. More.", "ASGI, version 2.3, in full."),
        ("Ends before a block::\n\n    code", "Ends before a block."),
    ],
)
def test_first_sentence_of_a_docstring(docstring: str, sentence: str) -> None:
    assert first_sentence(docstring) == sentence


def test_table_leaves_out_empty_columns_and_escapes_bars() -> None:
    assert table(("a", "b", "c"), [("1", "", "x|y")]) == "| a | c |\n| --- | --- |\n| 1 | x\\|y |"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "`true`"),
        (64 * 2**20, "`67108864` (64 MiB)"),
        (2**30, "`1073741824` (1 GiB)"),
        (8000, "`8000`"),
    ],
)
def test_default_is_written_with_its_unit(value: object, text: str) -> None:
    assert default_text(value) == text
