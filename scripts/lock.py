"""Lock the packages of the containers: `make lock` writes requirements/ROLE.txt, every package with its hashes.

torch and the packages that only its CUDA build needs are left out, since its builds for CPU and CUDA differ under one
version; requirements/torch.txt holds the version for the image. Versions in existing files remain while pyproject.toml
allows them; `--upgrade` takes the newest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

FOLDER = Path("requirements")
BUILD, TORCH = "build", "torch"
ROLES = {
    "serve-cpu": ("cpu", "grpc", "tracing"),
    "serve-gpu": ("gpu", "grpc", "tracing"),
    "export": ("cpu", "export"),
    "train": ("cpu", "train"),
}
"""Files, and the extras of pyproject.toml in each."""

_NAME = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)
_OF_CUDA = re.compile(r"torch$|triton$|nvidia-|cuda-")
_RELEASE = re.compile(r"[0-9.]+")


def main() -> None:
    """Write all lock files."""
    parser = argparse.ArgumentParser(prog="make lock", description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows")
    upgrade = ["--upgrade"] if parser.parse_args().upgrade else []
    project = read_project()
    for role, extras in ROLES.items():
        asked = [option for extra in extras for option in ("--extra", extra)] + [*upgrade, "pyproject.toml"]
        if role == "train":
            resolved = dict(_NAME.findall(_compile(role, asked)))
            _write(TORCH, project, f"torch=={_release(resolved['torch'])}\n")
            asked += [option for name in resolved if _OF_CUDA.match(name) for option in ("--no-emit-package", name)]
        _lock(role, project, asked)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "build.in"
        source.write_text("\n".join(project["build-system"]["requires"]) + "\n")
        _lock(BUILD, project, [*upgrade, str(source)])


def read_project() -> dict[str, Any]:
    """Return the content of pyproject.toml."""
    return tomllib.loads(Path("pyproject.toml").read_text())


def header(role: str, project: dict[str, Any]) -> str:
    """Return the header of a role's file, with a digest that changes with the requirements in pyproject.toml."""
    asked = [project["build-system"]["requires"]]
    if role != BUILD:
        extras = project["project"]["optional-dependencies"]
        locked = sorted({extra for extras in ROLES.values() for extra in extras})
        asked = [project["project"]["dependencies"], *(extras[extra] for extra in locked)]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    return f"# Made by `make lock`; the requirements of pyproject.toml: {digest}\n"


def _lock(role: str, project: dict[str, Any], asked: list[str]) -> None:
    _write(role, project, _compile(role, [*asked, "--generate-hashes"]))


def _write(role: str, project: dict[str, Any], text: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{role}.txt").write_text(header(role, project) + text)


def _compile(role: str, asked: list[str]) -> str:
    """Return uv's resolution for all platforms of Python 3.11; versions pinned before are preferred."""
    fixed = ["--universal", "--python-version", "3.11", "--no-header", "--no-annotate", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pins.txt"
        before = [path.read_text() for path in (FOLDER / f"{role}.txt", FOLDER / f"{TORCH}.txt") if path.exists()]
        output.write_text("".join(before))
        command = [sys.executable, "-m", "uv", "pip", "compile", *fixed, *asked, "--output-file", str(output)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise SystemExit(f"uv could not resolve the requirements of {role}.")
        return output.read_text()


def _release(version: str) -> str:
    """Return the release of a version without its build tag, so that it matches every build."""
    found = _RELEASE.match(version)
    assert found is not None  # a version begins with its release
    return found[0]


if __name__ == "__main__":
    main()
