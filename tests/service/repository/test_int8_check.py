"""An int8 network on another processor than that of its proof: checked while it loads, rejected or reported."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from normfold.contract.manifest import MANIFEST_NAME, read_manifest
from normfold.contract.record import to_json
from normfold.contract.source_card import SourceCard
from normfold.export.bundle.export import export_bundle
from normfold.export.precision.options import PrecisionOptions
from normfold.export.precision.quantize_bundle import quantize_bundle
from normfold.export.quantize.proof import time_ratio
from normfold.service.repository import int8_check
from tests.support.infer_bodies import png_of
from tests.support.onnx_models import GREY_CARD, grey_classifier
from tests.support.service import Service, StartService, repository_index

CARD = SourceCard(preprocessing=GREY_CARD, labels=("a", "b", "c"), logits=("logits",))

pytestmark = pytest.mark.slow


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with version 1 of net in float32 and version 2 in int8."""
    monkeypatch.setattr(time_ratio, "SECONDS", 0.0)
    monkeypatch.setattr(time_ratio, "MIN_ROUNDS", 1)
    onnx.save(grey_classifier(), tmp_path / "net.onnx")
    export_bundle(tmp_path / "net.onnx", tmp_path / "models", "net", card=CARD)
    quantize_bundle(tmp_path / "models", "net", PrecisionOptions(force=True))
    return tmp_path / "models"


def set_processor(repository: Path, name: str) -> None:
    path = repository / "net" / "2" / MANIFEST_NAME
    manifest = read_manifest(path)
    assert manifest.precision is not None
    proof = manifest.precision.proof.model_copy(update={"processor": name})
    precision = manifest.precision.model_copy(update={"proof": proof})
    path.write_text(to_json(manifest.model_copy(update={"precision": precision})))


@pytest.fixture
def saturating(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a runtime whose optimised runs differ: as on a processor whose integer kernels saturate."""
    right = int8_check._run_unoptimised

    def run(*arguments: Any) -> list[np.ndarray]:
        return [array * 1.2 for array in right(*arguments)]

    monkeypatch.setattr(int8_check, "_run_unoptimised", run)


def parameters(service: Service) -> dict[str, str]:
    found = service.client.get("/v2/models/net/versions/2/config").json()["parameters"]
    return {name: value["string_value"] for name, value in found.items()}


def test_network_on_the_processor_of_its_proof_is_not_checked(repository: Path, start: StartService) -> None:
    service = start(repository)

    assert parameters(service)["precision"] == "int8"
    assert "int8_check_db" not in parameters(service)
    versions = service.client.get("/v1/models").json()["models"][0]["versions"]
    assert {each["version"]: each["precision"] for each in versions} == {"1": None, "2": "int8"}


def test_network_on_another_processor_is_checked_and_served(repository: Path, start: StartService) -> None:
    set_processor(repository, "another")

    service = start(repository)

    assert float(parameters(service)["int8_check_db"]) >= 25


@pytest.mark.usefixtures("saturating")
def test_network_that_another_processor_computes_wrongly_is_rejected(repository: Path, start: StartService) -> None:
    set_processor(repository, "another")

    service = start(repository, wait=False)
    service.wait_until_loaded()

    state, reason = repository_index(service)["net/2"]
    assert state == "UNAVAILABLE"
    assert "does not compute what the int8 network says" in reason
    assert "NORMFOLD_INT8_CHECK=warn" in reason
    assert repository_index(service)["net/1"][0] == "READY"


@pytest.mark.usefixtures("saturating")
def test_setting_makes_it_a_warning(repository: Path, start: StartService, caplog: pytest.LogCaptureFixture) -> None:
    set_processor(repository, "another")

    with caplog.at_level(logging.WARNING):
        service = start(repository, int8_check="warn")

    assert repository_index(service)["net/2"][0] == "READY"
    assert "does not compute what the int8 network says" in caplog.text
    assert float(parameters(service)["int8_check_db"]) < 25


@pytest.mark.usefixtures("saturating")
def test_setting_turns_the_check_off(repository: Path, start: StartService) -> None:
    set_processor(repository, "another")

    service = start(repository, int8_check="off")

    assert "int8_check_db" not in parameters(service)


def test_quantised_version_predicts_and_classifies(repository: Path, start: StartService) -> None:
    service = start(repository)
    raw = np.random.default_rng(0).uniform(0, 16, (2, 8, 8)).tolist()

    answers = [
        service.client.post(f"/v1/models/net/versions/{version}:predict", json={"instances": raw}).json()
        for version in (1, 2)
    ]

    image = png_of(255 * np.array(raw[0]) / 16)
    classified = service.client.post("/v1/models/net/versions/2:classify", content=image).json()
    assert classified["model_version"] == "2"
    for one, other in zip(*(answer["predictions"] for answer in answers), strict=True):
        np.testing.assert_allclose(one["probabilities"], other["probabilities"], atol=0.1)
