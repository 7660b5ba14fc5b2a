"""A page in a notebook cell."""

from __future__ import annotations

from html import escape

HEIGHT_PX = 640


def embed(page: str) -> str:
    """Return a whole page as a frame: neither its styles nor the notebook's reach the other."""
    style = f"width:100%;height:{HEIGHT_PX}px;border:0"
    return f'<iframe srcdoc="{escape(page)}" sandbox="" style="{style}" title="Normfold"></iframe>'
