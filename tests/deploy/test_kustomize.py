"""The kustomizations: every file is named by one, every patch meets what it patches, and kubectl builds them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support.deploy_files import (
    FILES,
    KUBERNETES,
    KUSTOMIZATIONS,
    OVERLAYS,
    Resource,
    base_resource,
    container_of,
    environment_of,
    pod_of,
    read_document,
)

ALONE = {KUBERNETES / "upload.yaml", KUBERNETES / "prometheus-adapter-rule.yaml"}
"""Files that docs/how-to/kubernetes.md has applied by themselves."""

CUSTOM = {"ServiceMonitor", "PrometheusRule"}

RESOURCES = {
    (resource["kind"], resource["metadata"]["name"]): resource
    for folder in KUSTOMIZATIONS
    for name in read_document(folder / "kustomization.yaml").get("resources", [])
    if (folder / name).is_file()
    for resource in [read_document(folder / name)]
}

PATCHES = [
    pytest.param(patch.get("target"), folder / patch["path"], id=f"{folder.name}/{patch['path']}")
    for folder in KUSTOMIZATIONS
    for patch in read_document(folder / "kustomization.yaml").get("patches", [])
]


def _named_by(folder: Path) -> set[Path]:
    kustomization = read_document(folder / "kustomization.yaml")
    names = [*kustomization.get("resources", []), *kustomization.get("components", [])]
    names += [patch["path"] for patch in kustomization.get("patches", [])]
    return {(folder / name).resolve() for name in names}


def _build(folder: Path) -> dict[str, Resource]:
    """Return what kubectl makes of a kustomization, by kind."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl (make system-packages)")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {resource["kind"]: resource for resource in yaml.safe_load_all(done.stdout)}


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda folder: folder.name)
def test_files_that_a_kustomization_names_exist(folder: Path) -> None:
    assert [path for path in _named_by(folder) if not path.exists()] == []


def test_kustomizations_name_every_file() -> None:
    named = set().union(*(_named_by(folder) for folder in KUSTOMIZATIONS)) | ALONE
    files = {path for path in FILES if path.is_relative_to(KUBERNETES) and path.name != "kustomization.yaml"}
    assert files == {path for path in named if path.is_file()}


def test_overlays_use_every_component() -> None:
    named = set().union(*(_named_by(folder) for folder in OVERLAYS))
    assert {folder for folder in KUSTOMIZATIONS if folder not in OVERLAYS} <= named


@pytest.mark.parametrize(("target", "path"), PATCHES)
def test_target_of_a_patch_exists(target: dict[str, str] | None, path: Path) -> None:
    patch = read_document(path)
    if target is None:
        resource = RESOURCES[patch["kind"], patch["metadata"]["name"]]
        assert container_of(patch)["name"] == container_of(resource)["name"]
        assert patch["apiVersion"] == resource["apiVersion"]
        assert patch["metadata"]["namespace"] == base_resource("namespace")["metadata"]["name"]
        return
    resource = RESOURCES[target["kind"], target["name"]]
    assert "/".join(target[name] for name in ("group", "version") if name in target) == resource["apiVersion"]
    for operation in patch:
        assert operation["op"] == "add"
        _walk(resource, operation["path"].split("/")[1:-1])


def _walk(node: Any, keys: list[str]) -> None:
    """Go down a JSON pointer; a KeyError or IndexError where it leads nowhere."""
    for key in keys:
        node = node[int(key)] if isinstance(node, list) else node[key]


@pytest.mark.slow
@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_resources_built_by_kubectl_fit_the_schema(folder: Path) -> None:
    built = _build(folder)
    for kind, resource in built.items():
        if kind not in CUSTOM:
            kubernetes_validate.validate(resource, "1.37", strict=True)
        if kind != "Namespace":
            assert resource["metadata"]["namespace"] == built["Namespace"]["metadata"]["name"]


def test_base_needs_no_custom_resource() -> None:
    named = _named_by(KUBERNETES / "base")
    assert all("base" in path.parts for path in named)
    assert not {read_document(path)["kind"] for path in named} & CUSTOM


@pytest.mark.slow
def test_gpu_overlay_asks_for_a_gpu_its_image_and_the_provider_that_uses_it() -> None:
    deployment = _build(KUBERNETES / "overlays" / "gpu")["Deployment"]
    container = container_of(deployment)
    assert container["image"] == container_of(base_resource("deployment"))["image"] + "-gpu"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert (
        container["resources"]["limits"]["cpu"]
        == container_of(base_resource("deployment"))["resources"]["limits"]["cpu"]
    )
    assert environment_of(deployment)["NORMFOLD_PROVIDER"] == "cuda"
    assert [one["key"] for one in pod_of(deployment)["tolerations"]] == ["nvidia.com/gpu"]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@pytest.mark.slow
def test_production_overlay_mounts_the_folder_of_keys_and_gives_prometheus_one() -> None:
    built = _build(KUBERNETES / "overlays" / "production")
    deployment, (endpoint,) = built["Deployment"], built["ServiceMonitor"]["spec"]["endpoints"]
    (mount,) = [one for one in container_of(deployment)["volumeMounts"] if one["name"] == "keys"]
    (volume,) = [one for one in pod_of(deployment)["volumes"] if one["name"] == "keys"]
    assert Path(environment_of(deployment)["NORMFOLD_KEYS"]).parent == Path(mount["mountPath"])
    assert "subPath" not in mount
    assert volume["secret"]["defaultMode"] == 0o440
    assert endpoint["authorization"] == {
        "type": "Bearer",
        "credentials": {"name": "normfold-metrics-key", "key": "key"},
    }


@pytest.mark.slow
def test_production_overlay_scales_on_processors_and_on_the_queue() -> None:
    metrics = _build(KUBERNETES / "overlays" / "production")["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert [metric["type"] for metric in metrics] == ["Resource", "Pods"]


@pytest.mark.slow
def test_production_overlay_opens_the_port_of_grpc_everywhere() -> None:
    built = _build(KUBERNETES / "overlays" / "production")
    (port,) = [one for one in container_of(built["Deployment"])["ports"] if one["name"] == "grpc"]
    assert environment_of(built["Deployment"])["NORMFOLD_GRPC_PORT"] == str(port["containerPort"])
    (of_service,) = [one for one in built["Service"]["spec"]["ports"] if one["name"] == "grpc"]
    assert (of_service["port"], of_service["targetPort"]) == (port["containerPort"], "grpc")
    (rule,) = built["NetworkPolicy"]["spec"]["ingress"]
    assert {one["port"] for one in rule["ports"]} == {"http", "grpc"}
