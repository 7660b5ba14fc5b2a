"""Folders of the repository that tests read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""

GRAPHS = ROOT / "tests" / "graphs"
"""Graphs of published architectures, without weights; see `tests.support.published_graphs`."""
