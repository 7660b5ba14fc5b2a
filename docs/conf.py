"""The documentation's configuration for Sphinx: `make docs` builds it, and every warning is an error."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.docs_reference.generators import GENERATORS  # noqa: E402 -- found by the line above

project = "Normfold"
author = "The Normfold authors"
copyright = "2026, The Normfold authors"  # noqa: A001 -- Sphinx's name
release = importlib.metadata.version("normfold")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**/*.ipynb", "**/*.py"]
nitpicky = True
# Types of other projects: there are no pages of theirs to link to without a network.
nitpick_ignore_regex = [("py:.*", r"(?!normfold\.).*")]

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

autodoc_typehints = "signature"
maximum_signature_line_length = 80
add_module_names = False  # a reader imports from normfold, wherever a name is defined
default_role = "code"  # `name` in a docstring is code, as in Markdown
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "Normfold"
html_static_path = ["_static"]
html_css_files = ["normfold.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options: dict[str, Any] = {"navigation_with_keys": True, "footer_icons": []}

_GENERATED = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)
_LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"((?:https?:)?//[^\"]+)\"")
"""What a page loads; a plain link, which a reader may follow or not, is no match."""


def _insert_generated(_: Sphinx, __: str, source: list[str]) -> None:
    """Replace each marker of a page by what is generated from the code."""
    source[0] = _GENERATED.sub(lambda match: GENERATORS[match[1]](), source[0])


def _escape_underscores(_: Sphinx, __: str, ___: str, ____: Any, _____: Any, lines: list[str]) -> None:
    """Make a final underscore, as in NORMFOLD_, plain text: to docutils it would be a link."""
    lines[:] = [re.sub(r"(?<=\w)_(?=[\s,.;:)]|$)", r"\\_", line) for line in lines]


def _strip_code(_: Sphinx, doctree: nodes.document) -> None:
    """Remove the blank lines with which a section of an included script ends."""
    for block in doctree.findall(nodes.literal_block):
        text = block.astext().strip("\n")
        block.rawsource = text  # code is highlighted only where both are equal
        block.children = []
        block += nodes.Text(text)


def _reject_outside_addresses(app: Sphinx, exception: Exception | None) -> None:
    """Fail if a page loads anything from another host: the pages are read without a network."""
    if exception is not None:
        return
    outdir = Path(app.outdir)
    found = {
        f"{page.relative_to(outdir)}: {address}"
        for page in outdir.rglob("*.html")
        for address in _LOADED.findall(page.read_text())
    }
    if found:
        raise ExtensionError("Pages load from other hosts:\n" + "\n".join(sorted(found)))


def setup(app: Sphinx) -> None:
    """Register the hooks."""
    app.connect("source-read", _insert_generated)
    app.connect("doctree-read", _strip_code)
    app.connect("autodoc-process-docstring", _escape_underscores)
    app.connect("build-finished", _reject_outside_addresses)
