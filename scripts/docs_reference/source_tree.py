"""The folders and modules of the product, with the first sentence of each docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from scripts.docs_reference.markdown import described, first_sentence, table

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = ("contract", "models", "export", "service", "normfold", "cli", "display")
"""Top-level folders of the product, in the order in which the documentation shows them."""


def folders() -> str:
    """Return a table of the packages and the folders in them, with the first sentence of each docstring."""
    rows = [
        (f"`{folder.as_posix()}/`", _summary(folder / "__init__.py"))
        for package in PACKAGES
        for folder in _folders(Path(package))
    ]
    return table(("folder", "contents"), rows)


def modules() -> str:
    """Return a section for each folder: the modules in it, with the first sentence of each docstring."""
    sections = []
    for package in PACKAGES:
        for folder in _folders(Path(package)):
            sections.append(f"{'##' if len(folder.parts) == 1 else '###'} {folder.as_posix()}")
            sections.append(_summary(folder / "__init__.py"))
            names = sorted(path.name for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py")
            if names:
                rows = [(f"`{name}`", _summary(folder / name)) for name in names]
                sections.append(table(("module", "contents"), rows))
    return "\n\n".join(sections)


def _folders(folder: Path) -> Iterator[Path]:
    """Yield a package and all packages below it, relative to the repository; links of an editable install are not."""
    yield folder
    for path in sorted((ROOT / folder).iterdir()):
        if path.is_dir() and not path.is_symlink() and (path / "__init__.py").exists():
            yield from _folders(path.relative_to(ROOT))


def _summary(module: Path) -> str:
    """Return the first sentence of a module's docstring; the module is parsed, not imported."""
    text = ast.get_docstring(ast.parse((ROOT / module).read_text(encoding="utf-8")))
    return first_sentence(described(text, module.as_posix()))
