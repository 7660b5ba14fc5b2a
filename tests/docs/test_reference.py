"""The generated reference has every setting, option, metric, command, reason code and public name, each described."""

from __future__ import annotations

import re

import pytest

import normfold
from normfold.contract.manifest import Manifest
from normfold.service.settings import Settings
from scripts import docs_reference
from scripts.docs_reference import GENERATORS, UndocumentedError


@pytest.mark.parametrize("name", GENERATORS)
def test_generated_part_is_markdown_with_rows(name: str) -> None:
    text = GENERATORS[name]()

    assert text.strip()
    assert "None" not in re.findall(r"\| (\w+) \|", text)


def test_settings_table_has_every_setting_in_order() -> None:
    rows = re.findall(r"^\| `NORMFOLD_(\w+)` \|", docs_reference.settings(), re.MULTILINE)

    assert [row.lower() for row in rows] == list(Settings.model_fields)


def test_commands_have_a_section_each() -> None:
    sections = re.findall(r"^#+ normfold (.+)$", docs_reference.commands(), re.MULTILINE)

    assert {"train", "export", "fold", "serve", "keys", "keys create", "repository rollback"} <= set(sections)
    assert len(sections) == len(set(sections))


def test_manifest_table_has_every_field() -> None:
    assert all(f"| `{name}` |" in docs_reference.manifest() for name in Manifest.model_fields)


def test_text_without_a_description_is_an_error() -> None:
    with pytest.raises(UndocumentedError, match="the setting 'x' has no description"):
        docs_reference._described("  ", "the setting 'x'")


def test_python_api_has_every_public_name() -> None:
    text = docs_reference.python_api()

    assert [name for name in normfold.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_public_name_without_a_docstring_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normfold.fold, "__doc__", None)

    with pytest.raises(UndocumentedError, match=r"normfold\.fold has no description"):
        docs_reference.python_api()


def test_table_leaves_out_empty_columns_and_escapes_bars() -> None:
    assert docs_reference._table(("a", "b", "c"), [("1", "", "x|y")]) == "| a | c |\n| --- | --- |\n| 1 | x\\|y |"


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
    assert docs_reference._default(value) == text
