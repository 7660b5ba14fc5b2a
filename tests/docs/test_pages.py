"""The pages name what exists: links, commands, options, settings, metrics, files; and load nothing from other hosts."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from normfold.cli.main import app
from normfold.service.settings import OF_OTHER_COMMANDS, PREFIX, Settings
from scripts.docs_reference.service import metrics, triton_metrics
from tests.support.paths import LAYERS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
CHANGELOG = ROOT / "CHANGELOG.md"

OTHER_VARIABLES = {"NORMFOLD_COMPOSE", *OF_OTHER_COMMANDS}
"""Variables of the repository's own, and of other commands, that the service does not read."""

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


def dead_links(page: Path) -> Iterator[str]:
    """Yield the links of a page to files that do not exist, and to headings that their page does not have."""
    for found in _LINK.findall(page.read_text()):
        target, _, anchor = (found[0] or found[1]).partition("#")
        if target.startswith(("http:", "https:")):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists():
            yield target
        elif anchor and "generated:" not in path.read_text() and anchor not in headings(path):
            yield f"{target}#{anchor}"


def per_page(found: Callable[[Path], Iterable[str]], pages: Iterable[Path] = PAGES) -> dict[str, list[str]]:
    """Return what was found in each page, without the pages in which nothing was."""
    lists = {str(page.relative_to(ROOT)): sorted(found(page)) for page in pages}
    return {page: names for page, names in lists.items() if names}


def test_links_of_pages_lead_to_files_and_headings() -> None:
    assert not per_page(dead_links, [*PAGES, CHANGELOG])


def test_planted_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# Here\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Top\n\n[a](other.md#here) [b](other.md#gone) [c](gone.md) [d](#top) [e](#gone) [f](https://g/)\n"
    )

    assert list(dead_links(page)) == ["other.md#gone", "gone.md", "#gone"]


def test_commands_of_pages_are_accepted_by_the_command_line() -> None:
    for page in PAGES:
        for arguments in commands(page):
            try:
                parse(arguments)
            except Exception as error:
                error.add_note(f"{page.relative_to(ROOT)}: normfold {shlex.join(arguments)}")
                raise


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


def test_settings_that_pages_name_exist() -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES

    assert not per_page(lambda page: set(re.findall(r"\bNORMFOLD_[A-Z_]+\b", page.read_text())) - known)


def test_metrics_that_pages_name_exist() -> None:
    known = set(re.findall(r"`((?:normfold|process|nv)_\w+)`", metrics() + triton_metrics()))
    asked = {name for page in PAGES for name in re.findall(r"`((?:normfold|nv_inference)_\w+)`", page.read_text())}

    assert asked <= known


def missing_files(page: Path) -> list[str]:
    """Return the files of the repository that a page names and that do not exist."""
    top = "cli|contract|display|export|models|service|tests|benchmarks|scripts|deploy|docs"
    named = re.findall(rf"`((?:{top})/[\w/.-]*)`", page.read_text())
    return [path for path in named if not (ROOT / path).exists()]


def test_files_of_the_repository_that_pages_name_exist() -> None:
    assert not per_page(missing_files)


@functools.cache
def sources_of_tests() -> dict[str, str]:
    """Return the source of every file of tests, by its path."""
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}


def unknown_tests(text: str) -> set[str]:
    """Return the tests, and files of tests, that a text names in backticks and that do not exist."""
    files = sources_of_tests()
    found = set()
    for name in re.findall(r"`((?:tests/[\w/]+\.py::)?test_\w+)`", text):
        file, _, function = name.rpartition("::")
        sources = [files.get(file, "")] if file else list(files.values())
        if not any(re.search(rf"^\s*(?:async )?def {function}\(", source, re.MULTILINE) for source in sources):
            found.add(name)
    known_files = {Path(path).name for path in files}
    return found | {name for name in re.findall(r"`(test_\w+\.py)`", text) if name not in known_files}


def test_tests_that_pages_name_exist() -> None:
    assert not per_page(lambda page: unknown_tests(page.read_text()))


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
