"""What the images install, against what pyproject.toml asks for."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement

from scripts.lock import BUILD, ROLES, TORCH, header, read_project
from tests.support.paths import ROOT

FOLDER = ROOT / "requirements"
PINS = {path.stem: path for path in sorted(FOLDER.glob("*.txt"))}
HASHED = [role for role in PINS if role != TORCH]


def entries(role: str) -> list[str]:
    """Return what a file installs: a requirement and its hashes, on one line each."""
    lines = [line for line in PINS[role].read_text().splitlines() if not line.startswith("#")]
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def requirements(role: str) -> list[Requirement]:
    """Return the pinned requirements of a file."""
    return [Requirement(entry.split("--hash")[0]) for entry in entries(role)]


def asked(extra: str) -> list[Requirement]:
    """Return what an extra asks for, with the extras that it names and what everything needs."""
    project = read_project()["project"]
    found = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"][extra])]
    own = [nested for one in found if one.name == "normfold" for name in one.extras for nested in asked(name)]
    return own + [one for one in found if one.name != "normfold"]


def test_each_role_has_a_requirements_file() -> None:
    assert set(PINS) == {*ROLES, BUILD, TORCH}


@pytest.mark.parametrize("role", PINS)
def test_requirements_file_is_made_from_the_current_project_file(role: str) -> None:
    made_for = PINS[role].read_text().splitlines(keepends=True)[0]

    assert made_for == header(role, read_project()), "pyproject.toml asks for something else: run make lock"


@pytest.mark.parametrize("role", ROLES)
def test_every_requirement_is_met(role: str) -> None:
    pinned = [*requirements(role), *requirements(TORCH)]
    for one in (one for extra in ROLES[role] for one in asked(extra)):
        versions = [pin.specifier for pin in pinned if pin.name == one.name.lower()]
        assert versions, one
        for version in versions:
            assert one.specifier.contains(str(version).removeprefix("==")), one


@pytest.mark.parametrize("role", HASHED)
def test_every_package_is_pinned_and_has_hashes(role: str) -> None:
    for entry in entries(role):
        assert re.search(r"^[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("role", PINS)
def test_requirements_files_name_no_index(role: str) -> None:
    assert not re.search(r"://|file:|--index|--find-links|--extra|@ ", PINS[role].read_text())


@pytest.mark.parametrize("role", [role for role in HASHED if role != "serve-gpu"])
def test_only_the_service_on_gpus_brings_cuda(role: str) -> None:
    assert not [pin for pin in requirements(role) if re.match("torch$|triton$|nvidia|cuda|onnxruntime-gpu", pin.name)]


def test_the_service_needs_neither_torch_nor_onnx() -> None:
    names = {pin.name for role in ("serve-cpu", "serve-gpu") for pin in requirements(role)}

    assert names.isdisjoint({"torch", "onnx", "onnx-ir", "onnxscript", "scikit-learn", "matplotlib"})


def test_an_image_that_exports_and_one_that_serves_have_the_same_versions() -> None:
    serving, exporting = ({pin.name: pin.specifier for pin in requirements(role)} for role in ("serve-cpu", "export"))

    both = serving.keys() & exporting.keys()
    assert "onnxruntime" in both
    assert {name: serving[name] for name in both} == {name: exporting[name] for name in both}
