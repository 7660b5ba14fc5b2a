"""What deploy/prometheus and deploy/grafana ask of Prometheus, read from their files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "normfold.json").read_text())
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]

_WORDS = {"and", "or", "unless", "by", "on", "without", "ignoring", "group_left", "group_right", "bool", "offset"}


def command(name: str) -> str:
    """Return the path of one of Prometheus's commands, or skip the test."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(
            f"{name} is not installed; Debian 12 has it: apt-get install --no-install-recommends prometheus "
            "(later releases have promtool in a package of that name)"
        )
    return found


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Yield the name and the expression of every query of the dashboard, its annotations' too."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]


def variable_queries() -> Iterator[tuple[str, str]]:
    """Yield the selector and the label of every variable that the dashboard looks up."""
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert found, variable["query"]
            yield found[1], found[2]


def metrics_of(expression: str) -> set[str]:
    """Return the names of the metrics in an expression: what is left of it without selectors, ranges and functions."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", expression)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - _WORDS
