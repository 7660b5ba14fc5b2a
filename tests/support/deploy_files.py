"""The files under deploy/: manifests of Kubernetes and KServe, rules of Prometheus, the dashboard of Grafana."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT

Resource = dict[str, Any]

KUBERNETES = ROOT / "deploy" / "kubernetes"
KSERVE = ROOT / "deploy" / "kserve"

FILES = sorted([*KUBERNETES.rglob("*.yaml"), *KSERVE.rglob("*.yaml")])
KUSTOMIZATIONS = [path.parent for path in FILES if path.name == "kustomization.yaml"]
OVERLAYS = [folder for folder in KUSTOMIZATIONS if "components" not in folder.parts]
"""What can be built and applied by itself."""


def read_document(path: Path) -> Any:
    """Return the one document of a file."""
    return yaml.safe_load(path.read_text())


def base_resource(name: str) -> Resource:
    """Return a resource of the base, by the name of its file."""
    resource: Resource = read_document(KUBERNETES / "base" / f"{name}.yaml")
    return resource


def pod_of(resource: Resource) -> Resource:
    """Return the spec of the pod that a Deployment, a Pod or a ServingRuntime makes."""
    spec: Resource = resource["spec"]
    return spec["template"]["spec"] if "template" in spec else spec  # type: ignore[no-any-return]


def container_of(resource: Resource) -> Resource:
    """Return the one container of a Deployment, a Pod or a ServingRuntime."""
    (container,) = pod_of(resource)["containers"]
    return container  # type: ignore[no-any-return]


def environment_of(resource: Resource) -> dict[str, str]:
    """Return the variables that its container is given."""
    return {one["name"]: one["value"] for one in container_of(resource).get("env", [])}


def bytes_of(quantity: str) -> int:
    """Return the bytes of a quantity such as 64Mi."""
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    return int(quantity[:-2]) * units[quantity[-2:]]


PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "normfold.json").read_text())
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]

_WORDS = {"and", "or", "unless", "by", "on", "without", "ignoring", "group_left", "group_right", "bool", "offset"}


def prometheus_command(name: str) -> str:
    """Return the path of one of Prometheus's commands, or skip the test."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} (make system-packages)")
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
