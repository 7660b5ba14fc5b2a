"""The pages name what exists: links, commands, options, settings, metrics, files; and load nothing from other hosts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from normfold.cli.main import app
from normfold.service.settings import PREFIX, Settings
from scripts.docs_reference import metrics, triton_metrics
from tests.support.paths import LAYERS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
CHANGELOG = ROOT / "CHANGELOG.md"
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

OTHER_VARIABLES = {"NORMFOLD_COMPOSE"}
"""Variables of the repository's own that the service does not read."""

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|\b(?:src|srcset)=\"([^\"]+)\"")
_BLOCK = re.compile(r"^( *)```(?:sh|console)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    lines = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", lines, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of each `normfold` command in a page's blocks of shell commands."""
    for _, block in _BLOCK.findall(page.read_text()):
        joined = block.replace("\\\n", " ")
        for line in joined.splitlines():
            words = line.strip().removeprefix("$ ")
            words = re.sub(r"^([A-Z_]+=('[^']*'|\S*) )+", "", words)
            if words.startswith("normfold "):
                yield shlex.split(re.split(r"\s[|>]\s", words)[0], comments=True)[1:]


def parse(arguments: list[str]) -> None:
    """Parse a command's arguments as the command line does, without running it."""
    command: Any = typer.main.get_command(app)
    path = "normfold"
    while hasattr(command, "list_commands"):
        name, *arguments = arguments
        context = typer.Context(command, info_name=path)
        command, path = command.get_command(context, name), f"{path} {name}"
        assert command is not None, f"There is no command {path!r}."
    command.make_context(path, list(arguments))


@pytest.mark.parametrize("page", [*PAGES, CHANGELOG], ids=[*NAMES, "CHANGELOG.md"])
def test_links_of_a_page_lead_to_a_file_and_a_heading(page: Path) -> None:
    for found in _LINK.findall(page.read_text()):
        target, _, anchor = (found[0] or found[1]).partition("#")
        if target.startswith(("http:", "https:")):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor and "generated:" not in path.read_text():
            assert anchor in headings(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_of_a_page_are_accepted_by_the_command_line(page: Path) -> None:
    for arguments in commands(page):
        parse(arguments)


def test_command_with_an_unknown_option_is_found() -> None:
    with pytest.raises(Exception, match="--bogus"):
        parse(["serve", "--bogus"])


def test_commands_are_found_in_blocks_with_prompts_variables_and_comments(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nA='{\"b\": 1}' B=2 normfold serve --port 1 \\\n  --json  # a comment\n```\n"
        "- item\n\n  ```console\n  $ normfold fold a b | tee c\n  output\n  ```\n"
    )

    assert list(commands(page)) == [["serve", "--port", "1", "--json"], ["fold", "a", "b"]]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES

    assert set(re.findall(r"\bNORMFOLD_[A-Z_]+\b", page.read_text())) <= known


def test_metrics_that_pages_name_exist() -> None:
    known = set(re.findall(r"`((?:normfold|process|nv)_\w+)`", metrics() + triton_metrics()))
    asked = {name for page in PAGES for name in re.findall(r"`((?:normfold|nv_inference)_\w+)`", page.read_text())}

    assert asked <= known


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_of_the_repository_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    top = "cli|contract|display|export|models|service|tests|benchmarks|scripts|deploy|docs"
    for path in re.findall(rf"`((?:{top})/[\w/.-]*)`", text):
        assert (ROOT / path).exists(), path


def unknown_tests(text: str) -> set[str]:
    """Return the tests, and files of tests, that a text names in backticks and that do not exist."""
    paths = [*(ROOT / "tests").rglob("test_*.py")]
    files = {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}
    found = set()
    for name in re.findall(r"`((?:tests/[\w/]+\.py::)?test_\w+)`", text):
        file, _, function = name.rpartition("::")
        sources = [files.get(file, "")] if file else list(files.values())
        if not any(re.search(rf"^\s*(?:async )?def {function}\(", source, re.MULTILINE) for source in sources):
            found.add(name)
    known_files = {path.name for path in paths}
    return found | {name for name in re.findall(r"`(test_\w+\.py)`", text) if name not in known_files}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    assert not unknown_tests(page.read_text())


def test_planted_names_of_missing_tests_are_found() -> None:
    here = "tests/docs/test_pages.py"
    missing = [f"{here}::test_gone", f"tests/gone.py::{test_readme_has_130_lines_or_fewer.__name__}", "test_gone.py"]
    present = [f"{here}::test_readme_has_130_lines_or_fewer", "test_readme_has_130_lines_or_fewer", "test_pages.py"]

    assert unknown_tests(" ".join(f"`{name}`" for name in [*missing, *present])) == set(missing)


def test_architecture_page_has_the_layers_that_the_tests_hold() -> None:
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    block = re.sub(r"\n +", " ", page.partition("## Layers")[2].split("```")[1].removeprefix("text\n"))
    written = dict(line.split(":") for line in block.strip().splitlines())

    assert {package: tuple(names.split()) for package, names in written.items()} == LAYERS


def test_readme_has_130_lines_or_fewer() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_decisions_have_one_form_and_are_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "index.md").read_text()
    for number, page in enumerate(sorted(folder.glob("0*.md")), 1):
        lines = page.read_text().splitlines()
        assert page.name.startswith(f"{number:04}-")
        assert lines[0].startswith(f"# {number}. ")
        assert re.match(r"20\d\d-\d\d-\d\d", lines[2])
        assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Decision", "## Consequences"]
        assert f"]({page.name})" in index
