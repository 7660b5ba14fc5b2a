"""The manifests under deploy/kubernetes and deploy/kserve, read as they lie there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
KSERVE = ROOT / "deploy" / "kserve"

FILES = sorted([*KUBERNETES.rglob("*.yaml"), *KSERVE.rglob("*.yaml")])
KUSTOMIZATIONS = [path.parent for path in FILES if path.name == "kustomization.yaml"]
OVERLAYS = [folder for folder in KUSTOMIZATIONS if "components" not in folder.parts]
"""What can be built and applied by itself."""


def read(path: Path) -> Any:
    """Return the one document of a file."""
    return yaml.safe_load(path.read_text())


def base(name: str) -> Resource:
    """Return a resource of the base, by the name of its file."""
    resource: Resource = read(KUBERNETES / "base" / f"{name}.yaml")
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
