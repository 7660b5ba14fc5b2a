"""The page at /docs: Swagger UI, and a list of the routes for a browser without JavaScript.

Its links are relative, so that they are right under any prefix, also under one that the service does not know.
"""

from __future__ import annotations

from html import escape
from typing import Any

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: routes</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/docs.css">
</head>
<body>
<div id="routes"></div>
<noscript>
<main>
<h1>{title} {version}</h1>
<p>With JavaScript, this page displays the <a href="openapi.json">OpenAPI document</a>. These are its routes:</p>
<dl>
{routes}
</dl>
</main>
</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/docs.js"></script>
</body>
</html>
"""


def render_page(document: dict[str, Any]) -> str:
    """Return the page of an OpenAPI document."""
    info = document["info"]
    routes = "\n".join(
        _render_route(method, path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    )
    return _PAGE.format(title=escape(info["title"]), version=escape(info["version"]), routes=routes)


def _render_route(method: str, path: str, operation: dict[str, Any]) -> str:
    """Return a route with its description; one of GET without parameters is a link."""
    text = f"{method.upper()} {escape(path)}"
    if method == "get" and "{" not in path:
        text = f'<a href="{escape(path.removeprefix("/") or ".")}">{text}</a>'
    summary = escape(operation["description"].partition("\n\n")[0])
    return f"<dt><code>{text}</code></dt><dd>{summary}</dd>"
