"""The page at /: a frame that its modules fill; without JavaScript it leads to the routes."""

from __future__ import annotations

from html import escape
from importlib.metadata import version

from normfold.service.web.page_files import HASH

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Normfold</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{files}/page.css">
<link rel="modulepreload" href="{files}/vendor/htm-preact.js">
<script type="module" src="{files}/app.js"></script>
</head>
<body>
<header><h1>Normfold</h1><span class="note">{version}</span><a href="{root}docs">Routes</a></header>
<main id="page">
<noscript>
<p>With JavaScript, models can be tried here. <a href="{root}docs">The routes</a> work without it.</p>
</noscript>
</main>
</body>
</html>
"""


def render_index(prefix: str) -> str:
    """Return the page.

    Args:
        prefix: path under which a proxy publishes the service; empty if none is known. The links are relative then:
            the address of the page ends with a slash.
    """
    root = escape(f"{prefix}/" if prefix else "")
    return _PAGE.format(root=root, files=f"{root}page/{HASH}", version=escape(version("normfold")))
