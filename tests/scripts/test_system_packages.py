"""Choosing and installing system packages, with apt played by functions."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts import system_packages
from scripts.system_packages import PROGRAMS, Program, choose_package, missing_programs, version_of

PROMTOOL = Program("promtool", ("promtool", "prometheus"), "the alert rules")
KUBECTL = Program("kubectl", ("kubectl", "kubernetes-client"), "the overlays", oldest=(1, 21))


class Machine:
    """A machine whose apt has some packages, of which some programs are installed.

    Attributes:
        commands: that were run.
        started: whether services would have been started while packages were installed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, policy: Path, packages: dict[str, str], user: int = 0) -> None:
        self.packages, self.policy = packages, policy
        self.installed: set[str] = set()
        self.commands: list[list[str]] = []
        self.started = False
        monkeypatch.setattr(system_packages, "POLICY", policy)
        monkeypatch.setattr("os.geteuid", lambda: user)
        monkeypatch.setattr(subprocess, "run", self.run)
        monkeypatch.setattr(shutil, "which", self.which)

    def which(self, name: str, path: str | None = None) -> str | None:  # noqa: ARG002
        return name if name in self.installed | {"apt-get", "sudo"} else None

    def run(self, command: Sequence[str], **_: Any) -> SimpleNamespace:
        self.commands.append(list(command))
        if command[0] == "apt-cache":
            return SimpleNamespace(stdout=f"  Candidate: {self.packages.get(command[-1], '(none)')}\n", returncode=0)
        if command[1] == "install":
            self.started = not self.policy.exists()
            for program in PROGRAMS:
                if set(program.packages) & set(command):
                    self.installed.add(program.name)
        return SimpleNamespace(stdout="", stderr="", returncode=1 if command[0] == "sudo" else 0)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """The path of Debian's switch for services, where nothing is yet."""
    return tmp_path / "policy-rc.d"


def test_first_known_package_is_chosen(monkeypatch: pytest.MonkeyPatch, policy: Path) -> None:
    Machine(monkeypatch, policy, {"prometheus": "2.42.0+ds-5"})
    assert choose_package(PROMTOOL) == "prometheus"
    Machine(monkeypatch, policy, {"prometheus": "2.53.0+ds-1", "promtool": "2.53.0+ds-1"})
    assert choose_package(PROMTOOL) == "promtool"
    Machine(monkeypatch, policy, {})
    assert choose_package(PROMTOOL) is None


@pytest.mark.parametrize(
    ("version", "is_chosen"), [("1.20.5+really1.20.2-1.1+deb12u1", False), ("1.32.3+ds-2", True), ("2:1.21-1", True)]
)
def test_package_that_is_too_old_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch, policy: Path, version: str, is_chosen: bool
) -> None:
    Machine(monkeypatch, policy, {"kubernetes-client": version})
    assert (choose_package(KUBECTL) == "kubernetes-client") is is_chosen


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.42.0+ds-5+deb12u1", (2, 42, 0)), ("1:528.0.0-0", (528, 0, 0)), ("1.20.5+really1.20.2-1.1", (1, 20, 2))],
)
def test_version_is_read_without_epoch_and_revision(text: str, numbers: tuple[int, ...]) -> None:
    assert version_of(text) == numbers


def test_missing_programs_are_installed_without_starting_a_service(
    monkeypatch: pytest.MonkeyPatch, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, policy, {"prometheus": "2.42.0", "wrk": "4.1.0"})
    assert system_packages.main() == 3
    [install] = [command for command in machine.commands if command[1] == "install"]
    assert install[-2:] == ["prometheus", "wrk"]
    assert not machine.started
    assert not policy.exists()
    out = capsys.readouterr().out
    assert "kubectl is missing (tests/deploy: the overlays, built): apt has no package with it.\n" in out
    assert "wrk is missing" not in out


def test_policy_of_the_machine_is_left_alone(monkeypatch: pytest.MonkeyPatch, policy: Path) -> None:
    policy.write_text("#!/bin/sh\nexit 101\n# the machine's own\n")
    machine = Machine(monkeypatch, policy, {"wrk": "4.1.0"})
    assert system_packages.main() == 3
    assert not machine.started
    assert policy.read_text().endswith("# the machine's own\n")


def test_apt_is_not_asked_when_nothing_is_missing(monkeypatch: pytest.MonkeyPatch, policy: Path) -> None:
    machine = Machine(monkeypatch, policy, {})
    machine.installed = {program.name for program in PROGRAMS}
    assert missing_programs() == []
    assert system_packages.main() == 0
    assert machine.commands == []


def test_user_who_may_not_install_gets_a_line_for_each_program(
    monkeypatch: pytest.MonkeyPatch, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, policy, {"wrk": "4.1.0"}, user=1000)
    assert system_packages.main() == 3
    assert len(capsys.readouterr().out.splitlines()) == len(PROGRAMS)
    assert not [command for command in machine.commands if "apt-get" in command]
