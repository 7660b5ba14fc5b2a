"""docker-compose.yml and the Dockerfile: their schemas, and what the service may do in a container."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from normfold.service.settings import PREFIX, Settings
from tests.support.paths import ROOT

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
KEYS = yaml.safe_load((ROOT / "docker-compose.keys.yml").read_text())
GPU = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = ["service", "train", "tools", "adapt"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program that is installed beside this Python."""
    program = str(Path(sys.executable).parent / command[0])
    return subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)


def environment(file: dict[str, Any]) -> dict[str, str]:
    """Return the variables of all services."""
    services = file["services"].values()
    return {name: value for service in services for name, value in service.get("environment", {}).items()}


@pytest.mark.slow
@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.gpu.yml", "docker-compose.keys.yml"])
def test_a_compose_file_is_what_the_specification_allows(file: str) -> None:
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)

    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_dockerfile_is_without_what_hadolint_warns_of() -> None:
    done = run("hadolint", "Dockerfile")

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", [*OURS, "prometheus", "grafana"])
def test_services_of_compose_have_no_privileges(name: str) -> None:
    service = COMPOSE["services"][name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_ports_are_open_to_this_machine_alone(name: str) -> None:
    for port in COMPOSE["services"][name].get("ports", []):
        assert port.startswith(("127.0.0.1:", "${ADDRESS:-127.0.0.1}:"))


def test_the_service_may_read_models_and_not_write_them() -> None:
    assert COMPOSE["services"]["service"]["volumes"] == ["models:/models:ro"]


def test_service_of_compose_has_limits() -> None:
    limits = COMPOSE["services"]["service"]["deploy"]["resources"]["limits"]

    assert set(limits) == {"cpus", "memory"}
    assert COMPOSE["services"]["service"]["pids_limit"] > 0


def test_stop_grace_period_covers_the_shutdown_of_the_service() -> None:
    patience = int(COMPOSE["services"]["service"]["stop_grace_period"].removesuffix("s"))

    assert patience > Settings.model_fields["shutdown_grace_s"].default + 5


@pytest.mark.parametrize("file", [COMPOSE, GPU, KEYS])
def test_service_accepts_every_setting_of_compose(file: dict[str, Any]) -> None:
    given = {name for name in environment(file) if name.startswith(PREFIX)}

    assert given <= {PREFIX + name.upper() for name in Settings.model_fields}


def settings() -> dict[str, str]:
    """Return the settings that the service gets."""
    lines = (ROOT / "deploy" / "compose.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_settings_of_compose_exist_and_can_be_overridden() -> None:
    named = COMPOSE["services"]["service"]["env_file"]

    assert [one["path"] for one in named] == ["deploy/compose.env", "normfold.env"]
    assert settings().keys() <= {PREFIX + name.upper() for name in Settings.model_fields}
    assert "environment" not in COMPOSE["services"]["service"]  # it would go before normfold.env


def test_memory_of_requests_fits_into_the_memory_limit() -> None:
    """The sum of docs/how-to/containers.md, for one processor."""
    size = {name: int(value) for name, value in settings().items() if name.endswith("_BYTES")}
    held = size["NORMFOLD_MAX_BODIES_BYTES"] + size["NORMFOLD_MAX_RESPONSE_BYTES"]

    assert COMPOSE["services"]["service"]["deploy"]["resources"]["limits"]["memory"] == "${MEMORY:-1g}"
    assert 105e6 + held + 2 * 10 * size["NORMFOLD_MAX_BODY_BYTES"] + 200e6 < 2**30


def test_prometheus_with_a_key_has_the_same_configuration() -> None:
    folder = ROOT / "deploy" / "prometheus"
    plain, keyed = (yaml.safe_load((folder / name).read_text()) for name in ("prometheus.yml", "prometheus-keys.yml"))
    (key,) = [job.pop("authorization") for job in keyed["scrape_configs"]]
    (mount,) = KEYS["services"]["prometheus"]["volumes"]

    assert plain == keyed
    assert key["credentials_file"].startswith(mount.split(":")[1])


def test_image_sets_only_settings_that_exist() -> None:
    given = set(re.findall(r"\b(NORMFOLD_[A-Z_]+)=", DOCKERFILE))

    assert given
    assert given <= {PREFIX + name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("name", OURS)
def test_every_target_is_in_the_dockerfile(name: str) -> None:
    assert f" AS {COMPOSE['services'][name]['build']['target']}\n" in DOCKERFILE


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_mounted_files_exist(name: str) -> None:
    for volume in COMPOSE["services"][name]["volumes"]:
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (ROOT / source).is_dir()


def test_health_checks_of_image_and_compose_are_equal() -> None:
    (check,) = re.findall(r"^HEALTHCHECK (.*) CMD (.*)$", DOCKERFILE, re.MULTILINE)
    named = COMPOSE["services"]["service"]["healthcheck"]

    assert yaml.safe_load(check[1]) == named["test"][1:]
    assert dict(re.findall(r"--([a-z-]+)=(\S+)", check[0])) == {
        name.replace("_", "-"): str(value) for name, value in named.items() if name != "test"
    }


def test_build_context_holds_only_copied_files() -> None:
    sent = {
        line[1:].split("/")[0] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copied = {
        source.split("/")[0]
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for source in sources.split()
    }

    assert sent == copied
