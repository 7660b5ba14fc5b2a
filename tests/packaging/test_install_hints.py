"""What error messages and documents say of installing comes from one place."""

from __future__ import annotations

import re

import pytest

from normfold.contract.errors import MissingPackageError
from normfold.contract.install import REQUIREMENT, how_to_install, pip_install
from normfold.contract.onnxruntime_package import RuntimePackageError
from normfold.service.runtime.providers.table import PROVIDERS
from tests.support.paths import FOLDERS, ROOT

OTHERS = {"tritonclient"}
"""Packages of others that documents install with an extra."""

COMMAND = re.compile(r"pip install '([^'\[]*)\[([a-z,]+)\]'")


def test_commands_name_the_requirement_and_extras() -> None:
    assert pip_install("cpu", "export") == "pip install '.[cpu,export]'"
    assert how_to_install("gpu") == "in Normfold's clone with: pip install '.[gpu]'"
    assert how_to_install("cpu", "gpu") == "in Normfold's clone with: pip install '.[cpu]' (or '.[gpu]')"


def test_a_released_name_needs_no_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normfold.contract.install.REQUIREMENT", "normfold")
    monkeypatch.setattr("normfold.contract.install.PLACE", "")
    assert how_to_install("gpu") == "with: pip install 'normfold[gpu]'"


def test_errors_say_how_to_install() -> None:
    assert str(MissingPackageError("onnx", "export", "normfold fold")).endswith(how_to_install("export"))
    assert how_to_install("cpu", "gpu", "openvino") in str(RuntimePackageError(()))
    assert how_to_install("gpu") in PROVIDERS["cuda"].remedy


def test_documents_name_the_same_requirement() -> None:
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    commands = [found for path in paths for found in COMMAND.findall(path.read_text("utf-8"))]
    assert {requirement for requirement, _ in commands if requirement not in OTHERS} == {REQUIREMENT}


def test_no_other_module_spells_the_command() -> None:
    paths = [path for folder in FOLDERS if folder != "tests" for path in (ROOT / folder).glob("**/*.py")]
    spelled = [path for path in paths if COMMAND.search(path.read_text("utf-8"))]
    assert {path.relative_to(ROOT).as_posix() for path in spelled} == {"contract/install.py"}
