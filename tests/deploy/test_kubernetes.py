"""The manifests against Kubernetes' schemas, against each other, and against the service that they start."""

from __future__ import annotations

import asyncio
import re
import tomllib
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest

from normfold.service.app import create_app
from normfold.service.errors import SettingsError
from normfold.service.settings import Settings, load_settings
from tests.support.deploy_files import (
    FILES,
    KUBERNETES,
    Resource,
    base_resource,
    bytes_of,
    container_of,
    environment_of,
    pod_of,
    read_document,
)
from tests.support.paths import ROOT

VERSIONS = ("1.27", "1.37")
"""The oldest and the newest Kubernetes that docs/how-to/kubernetes.md names."""

LOADING_AND_SPANS_S = 5 + 2
"""What the service may take at its end besides delay and grace, as docs/how-to/serve.md says."""

RUNTIME = read_document(ROOT / "deploy" / "kserve" / "servingruntime.yaml")
UPLOAD = read_document(KUBERNETES / "upload.yaml")
DEPLOYMENT = base_resource("deployment")
PODS = [pytest.param(one, id=one["kind"]) for one in (DEPLOYMENT, UPLOAD, RUNTIME)]
SERVERS = [pytest.param(one, id=one["kind"]) for one in (DEPLOYMENT, RUNTIME)]

BUILT_IN = [path for path in FILES if path.parent.name == "base" and path.name != "kustomization.yaml"]
BUILT_IN += [KUBERNETES / "upload.yaml"]


def _labels_of_pods() -> dict[str, str]:
    labels: dict[str, str] = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    return labels


def _probes(resource: Resource) -> dict[str, Any]:
    return {name: probe for name, probe in container_of(resource).items() if name.endswith("Probe")}


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the metrics that a service has, even without a model."""
    app = create_app(Settings(repository=tmp_path_factory.mktemp("models")))

    async def ask() -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return (await client.get("/metrics")).raise_for_status().text

    return set(re.findall(r"^# TYPE (\S+)", asyncio.run(ask()), re.MULTILINE))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Paths of the service's OpenAPI document."""
    return set(create_app(Settings(repository=tmp_path_factory.mktemp("models"))).openapi()["paths"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", BUILT_IN, ids=lambda path: path.stem)
def test_manifest_fits_the_schema_of_kubernetes(path: Path, version: str) -> None:
    kubernetes_validate.validate(read_document(path), version, strict=True)


def test_the_page_names_the_versions_that_are_checked() -> None:
    page = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text()
    assert f"Kubernetes {VERSIONS[0]} and {VERSIONS[1]}" in " ".join(page.split())


def test_misspelt_field_does_not_fit_the_schema() -> None:
    wrong = base_resource("deployment")
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 45
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize(
    "selector",
    [
        pytest.param(DEPLOYMENT["spec"]["selector"]["matchLabels"], id="deployment"),
        pytest.param(base_resource("service")["spec"]["selector"], id="service"),
        pytest.param(base_resource("pdb")["spec"]["selector"]["matchLabels"], id="pdb"),
        pytest.param(base_resource("networkpolicy")["spec"]["podSelector"]["matchLabels"], id="networkpolicy"),
        *(
            pytest.param(one["labelSelector"]["matchLabels"], id=one["topologyKey"])
            for one in pod_of(DEPLOYMENT)["topologySpreadConstraints"]
        ),
    ],
)
def test_selector_is_the_label_of_the_serving_pods(selector: dict[str, str]) -> None:
    assert selector == _labels_of_pods()


def test_upload_pod_gets_no_requests() -> None:
    assert not base_resource("service")["spec"]["selector"].items() <= UPLOAD["metadata"]["labels"].items()


def test_autoscaler_counts_the_replicas_and_the_deployment_does_not() -> None:
    target = base_resource("hpa")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (DEPLOYMENT["kind"], DEPLOYMENT["metadata"]["name"])
    assert "replicas" not in DEPLOYMENT["spec"]


def test_eviction_leaves_one_of_the_minimum_replicas() -> None:
    assert base_resource("pdb")["spec"]["maxUnavailable"] < base_resource("hpa")["spec"]["minReplicas"]


def test_rollout_takes_no_pod_away_before_a_new_one_is_ready() -> None:
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@pytest.mark.parametrize("server", SERVERS)
def test_port_is_the_one_that_the_service_listens_on(server: Resource) -> None:
    port, *others = container_of(server)["ports"]
    assert port["containerPort"] == Settings().port
    opened = environment_of(server).get("NORMFOLD_GRPC_PORT")
    assert [str(other["containerPort"]) for other in others] == ([opened] if opened else [])
    assert "NORMFOLD_PORT" not in environment_of(server)


def test_ports_are_called_by_names_that_exist() -> None:
    (of_container,) = container_of(DEPLOYMENT)["ports"]
    (of_service,) = base_resource("service")["spec"]["ports"]
    (rule,) = base_resource("networkpolicy")["spec"]["ingress"]
    (monitored,) = read_document(KUBERNETES / "components" / "monitoring" / "servicemonitor.yaml")["spec"]["endpoints"]
    assert of_service["targetPort"] == of_container["name"]
    assert [port["port"] for port in rule["ports"]] == [of_container["name"]]
    assert {probe["httpGet"]["port"] for probe in _probes(DEPLOYMENT).values()} == {of_container["name"]}
    assert monitored["port"] == of_service["name"]


@pytest.mark.parametrize("server", SERVERS)
def test_probes_ask_the_health_routes(server: Resource, paths: set[str]) -> None:
    asked = {name: probe["httpGet"]["path"] for name, probe in _probes(server).items()}
    assert asked == {
        "startupProbe": "/v2/health/live",
        "readinessProbe": "/v2/health/ready",
        "livenessProbe": "/v2/health/live",
    }
    assert set(asked.values()) <= paths


def test_full_service_is_not_restarted_within_a_minute() -> None:
    """One connection too many is answered 503, a probe's too."""
    probe = _probes(DEPLOYMENT)["livenessProbe"]
    assert (probe["failureThreshold"] - 1) * probe["periodSeconds"] >= 60


@pytest.mark.parametrize("server", SERVERS)
def test_settings_are_taken_by_the_service(server: Resource, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment_of(server).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.host == "0.0.0.0"
    assert settings.model_control == "poll"
    assert settings.shutdown_delay_s > 0


@pytest.mark.parametrize("patch", sorted(KUBERNETES.rglob("deployment-patch.yaml")), ids=lambda path: path.parent.name)
def test_settings_of_a_patch_are_taken_beside_those_of_the_base(patch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**environment_of(DEPLOYMENT), **environment_of(read_document(patch))}.items():
        monkeypatch.setenv(name, value)
    load_settings()


def test_service_links_are_off_since_the_service_rejects_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    inference_service = read_document(ROOT / "deploy" / "kserve" / "inferenceservice.yaml")
    for pod in (pod_of(DEPLOYMENT), pod_of(UPLOAD), inference_service["spec"]["predictor"]):
        assert pod["enableServiceLinks"] is False
    prefix = base_resource("service")["metadata"]["name"].upper().replace("-", "_")
    monkeypatch.setenv(f"{prefix}_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(SettingsError, match="NORMFOLD_SERVICE_HOST"):
        load_settings()


def test_time_to_stop_covers_what_the_service_takes() -> None:
    environment = environment_of(DEPLOYMENT)
    max_shutdown_s = (
        float(environment["NORMFOLD_SHUTDOWN_DELAY_S"])
        + float(environment["NORMFOLD_SHUTDOWN_GRACE_S"])
        + LOADING_AND_SPANS_S
    )
    inference_service = read_document(ROOT / "deploy" / "kserve" / "inferenceservice.yaml")
    assert pod_of(DEPLOYMENT)["terminationGracePeriodSeconds"] > max_shutdown_s
    assert inference_service["spec"]["predictor"]["terminationGracePeriodSeconds"] > max_shutdown_s


@pytest.mark.parametrize("resource", PODS)
def test_container_runs_without_rights(resource: Resource) -> None:
    container = container_of(resource)
    context = {**pod_of(resource).get("securityContext", {}), **container["securityContext"]}
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["runAsGroup"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_pods_run_as_the_same_user() -> None:
    """What the upload pod writes, the others must be able to read."""
    contexts = [
        {**pod_of(one).get("securityContext", {}), **container_of(one)["securityContext"]}
        for one in (DEPLOYMENT, UPLOAD, RUNTIME)
    ]
    assert len({(context["runAsUser"], context["runAsGroup"]) for context in contexts}) == 1
    assert pod_of(DEPLOYMENT)["securityContext"]["fsGroup"] == contexts[0]["runAsGroup"]


def test_user_is_that_of_the_image() -> None:
    dockerfile = ROOT / "Dockerfile"
    (user,) = re.findall(r"^USER (\d+:\d+)$", dockerfile.read_text(), re.MULTILINE)[-1:]
    context = pod_of(DEPLOYMENT)["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"


@pytest.mark.parametrize("resource", PODS)
def test_image_is_that_of_this_version(resource: Resource) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert container_of(resource)["image"] == f"normfold:{version}"


def test_no_pod_holds_a_token() -> None:
    assert base_resource("serviceaccount")["automountServiceAccountToken"] is False
    for pod in (pod_of(DEPLOYMENT), pod_of(UPLOAD)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["serviceAccountName"] == base_resource("serviceaccount")["metadata"]["name"]


def test_repository_is_the_claim_read_only_and_written_by_the_upload_pod_alone() -> None:
    claim = base_resource("claim")["metadata"]["name"]
    for resource, is_read_only in ((DEPLOYMENT, True), (UPLOAD, False)):
        (volume,) = [one for one in pod_of(resource)["volumes"] if "persistentVolumeClaim" in one]
        (mount,) = [one for one in container_of(resource)["volumeMounts"] if one["name"] == volume["name"]]
        assert volume["persistentVolumeClaim"]["claimName"] == claim
        assert mount["mountPath"] == environment_of(DEPLOYMENT)["NORMFOLD_REPOSITORY"]
        assert mount.get("readOnly", False) is is_read_only


@pytest.mark.parametrize("resource", PODS)
def test_tmp_can_be_written_and_is_bounded(resource: Resource) -> None:
    (mount,) = [one for one in container_of(resource)["volumeMounts"] if one["mountPath"] == "/tmp"]
    (volume,) = [one for one in pod_of(resource)["volumes"] if one["name"] == mount["name"]]
    assert volume["emptyDir"]["medium"] == "Memory"
    assert bytes_of(volume["emptyDir"]["sizeLimit"]) <= 64 * 2**20


@pytest.mark.parametrize("server", SERVERS)
def test_memory_of_requests_leaves_enough_for_models(server: Resource) -> None:
    """The sum of docs/how-to/containers.md: bodies, responses, JSON while it is decoded, /tmp, the process."""
    container = container_of(server)
    limit, cpus = bytes_of(container["resources"]["limits"]["memory"]), int(container["resources"]["limits"]["cpu"])
    (tmp,) = [one["emptyDir"] for one in pod_of(server)["volumes"] if "emptyDir" in one]
    set_to = {name: int(value) for name, value in environment_of(server).items() if name.endswith("_BYTES")}
    reading = (cpus + 1) * 10 * set_to["NORMFOLD_MAX_BODY_BYTES"]
    held = set_to["NORMFOLD_MAX_BODIES_BYTES"] + set_to["NORMFOLD_MAX_RESPONSE_BYTES"]
    assert 105e6 + held + reading + bytes_of(tmp["sizeLimit"]) < limit


def test_limits_are_the_requests_and_name_the_processors() -> None:
    """Threads follow the limit on processors."""
    resources = container_of(DEPLOYMENT)["resources"]
    assert resources["limits"] == resources["requests"]
    assert "cpu" in resources["limits"]


def test_pods_reach_nothing_and_are_reached_on_one_port_alone() -> None:
    policy = base_resource("networkpolicy")["spec"]
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    assert len(rule["ports"]) == 1
    assert len(rule["from"]) == 2


def test_monitor_selects_the_service_and_asks_what_it_has(paths: set[str]) -> None:
    monitor = read_document(KUBERNETES / "components" / "monitoring" / "servicemonitor.yaml")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= base_resource("service")["metadata"]["labels"].items()
    assert monitor["metadata"]["namespace"] == base_resource("namespace")["metadata"]["name"]
    assert endpoint["path"] in paths


def test_queue_metric_is_the_services_the_rules_and_the_autoscalers(metrics: set[str]) -> None:
    (patch,) = read_document(KUBERNETES / "components" / "queue-scaling" / "hpa-patch.yaml")
    (rule,) = read_document(KUBERNETES / "prometheus-adapter-rule.yaml")["rules"]
    series = rule["seriesQuery"].split("{")[0]
    assert series in metrics
    assert rule["name"]["as"] == patch["value"]["pods"]["metric"]["name"]
    assert rule["metricsQuery"].startswith("sum(")


def test_patched_autoscaler_fits_the_schema() -> None:
    (patch,) = read_document(KUBERNETES / "components" / "queue-scaling" / "hpa-patch.yaml")
    scaler = base_resource("hpa")
    scaler["spec"]["metrics"].append(patch["value"])
    kubernetes_validate.validate(scaler, VERSIONS[-1], strict=True)


def test_alerts_are_those_of_prometheus() -> None:
    rule = read_document(KUBERNETES / "components" / "monitoring" / "prometheusrule.yaml")

    assert rule["spec"] == read_document(ROOT / "deploy" / "prometheus" / "alerts.yml")
