"""KServe's resources, which have no schema here: against each other, the Deployment and the service."""

from __future__ import annotations

from normfold.contract.bundle import NAME_PATTERN
from normfold.service.settings import Settings
from tests.support.deploy_files import KSERVE, base_resource, container_of, environment_of, read_document

RUNTIME = read_document(KSERVE / "servingruntime.yaml")
INFERENCE_SERVICE = read_document(KSERVE / "inferenceservice.yaml")
MODEL = INFERENCE_SERVICE["spec"]["predictor"]["model"]
MOUNTED = "/mnt/models"
"""Where KServe lays what storageUri points at."""


def test_service_names_the_runtime_a_format_and_a_protocol_that_it_has() -> None:
    formats = {(one["name"], one["version"]) for one in RUNTIME["spec"]["supportedModelFormats"]}
    assert MODEL["runtime"] == RUNTIME["metadata"]["name"]
    assert (MODEL["modelFormat"]["name"], MODEL["modelFormat"]["version"]) in formats
    assert MODEL["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]


def test_runtime_is_never_chosen_for_a_model_that_does_not_name_it() -> None:
    assert [one["autoSelect"] for one in RUNTIME["spec"]["supportedModelFormats"]] == [False]
    assert RUNTIME["spec"]["multiModel"] is False


def test_runtime_runs_the_service_as_the_deployment_does_but_for_the_repository() -> None:
    here, there = container_of(RUNTIME), container_of(base_resource("deployment"))
    assert here["name"] == "kserve-container"
    for field in ("image", "args", "resources"):
        assert here[field] == there[field]
    own = {"NORMFOLD_REPOSITORY": MOUNTED, "NORMFOLD_GRPC_PORT": "8001"}
    assert environment_of(RUNTIME) == environment_of(base_resource("deployment")) | own
    assert RUNTIME["spec"]["protocolVersions"] == ["v2", "grpc-v2"]


def test_probes_are_those_of_the_deployment_by_the_ports_number() -> None:
    here, there = container_of(RUNTIME), container_of(base_resource("deployment"))
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        expected = {**there[name], "httpGet": {**there[name]["httpGet"], "port": Settings().port}}
        assert here[name] == expected


def test_metrics_are_announced_at_the_port_that_the_service_listens_on() -> None:
    annotations = RUNTIME["spec"]["annotations"]
    assert annotations["prometheus.kserve.io/port"] == str(Settings().port)
    assert annotations["prometheus.kserve.io/path"] == "/metrics"


def test_storage_is_a_folder_of_the_claim_and_neither_a_model_nor_a_version() -> None:
    claim, _, folder = MODEL["storageUri"].removeprefix("pvc://").partition("/")
    name = INFERENCE_SERVICE["metadata"]["name"]
    assert claim == base_resource("claim")["metadata"]["name"]
    assert folder
    assert folder.split("/")[-1] != name
    assert not folder.split("/")[-1].isdecimal()


def test_name_can_be_a_models() -> None:
    assert NAME_PATTERN.fullmatch(INFERENCE_SERVICE["metadata"]["name"])
