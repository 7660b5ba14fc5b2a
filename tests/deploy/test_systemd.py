"""The units of systemd: its own checks, and the settings that they name."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from normfold.service.settings import PREFIX, Settings
from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "systemd"
UNITS = ("normfold.service", "normfold.socket")
PROGRAM = "/opt/normfold/bin/normfold"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd (apt install systemd)")


def copy_units(folder: Path, old: str = "", new: str = "") -> list[str]:
    """Copy the units, with a program that exists here, and with a fault if one is given; return their paths."""
    for name in UNITS:
        text = (FOLDER / name).read_text().replace(PROGRAM, sys.executable)
        assert not old or name != UNITS[0] or old in text
        (folder / name).write_text(text.replace(old, new))
    return [str(folder / name) for name in UNITS]


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


@needs_systemd
@pytest.mark.slow
def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    done = analyze("verify", *copy_units(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.slow
@pytest.mark.parametrize(("old", "new"), [("Type=notify", "Type=notified"), ("ProtectHome", "ProtectHouse")])
def test_systemd_finds_a_fault_in_the_service(tmp_path: Path, old: str, new: str) -> None:
    assert new.rpartition("=")[2] in analyze("verify", *copy_units(tmp_path, old, new)).stderr


@needs_systemd
@pytest.mark.slow
def test_systemd_service_is_hardened(tmp_path: Path) -> None:
    rating = ("security", "--offline=true", "--threshold=20")  # tenths of 10, which is the worst
    assert analyze(*rating, copy_units(tmp_path)[0]).returncode == 0
    assert analyze(*rating, copy_units(tmp_path, "CapabilityBoundingSet=\n")[0]).returncode != 0


@pytest.mark.parametrize("name", UNITS)
def test_systemd_units_name_settings_that_exist(name: str) -> None:
    named = set(re.findall(rf"{PREFIX}([A-Z_]+)", (FOLDER / name).read_text())) - {"NAME"}
    assert named
    assert named <= {field.upper() for field in Settings.model_fields}


def test_systemd_waits_for_the_end_of_the_service() -> None:
    found = re.search(r"^TimeoutStopSec=(\d+)$", (FOLDER / UNITS[0]).read_text(), re.MULTILINE)
    defaults = Settings.model_fields
    assert found
    assert int(found[1]) > defaults["shutdown_delay_s"].default + defaults["shutdown_grace_s"].default + 7
