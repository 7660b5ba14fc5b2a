"""The files of the page: our own, and those of swagger-ui-dist that `scripts.swagger_ui` copies into the package.

`swagger_ui/swagger-ui-dist.json` has their version, licence and sha256; a test compares them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
SWAGGER_UI = FOLDER / "swagger_ui"

_CSS, _JAVASCRIPT = "text/css; charset=utf-8", "text/javascript; charset=utf-8"


class Asset(NamedTuple):
    """A file of the page."""

    path: Path
    media_type: str


ASSETS = {
    "docs.css": Asset(FOLDER / "docs.css", _CSS),
    "docs.js": Asset(FOLDER / "docs.js", _JAVASCRIPT),
    "swagger-ui.css": Asset(SWAGGER_UI / "swagger-ui.css", _CSS),
    "swagger-ui-bundle.js": Asset(SWAGGER_UI / "swagger-ui-bundle.js", _JAVASCRIPT),
}
"""Names below /docs/; `service.auth.authorization` lists them too."""
