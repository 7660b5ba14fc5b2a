"""Lock what the containers install: `make lock` writes requirements/ROLE.txt, every package with its hashes.

torch stays out, with what its CUDA build alone needs: its builds for CPU and CUDA carry one version and differ. Which
version of it the image takes stands in requirements/torch.txt. Versions that a file names already are kept while
pyproject.toml allows them; `--upgrade` takes the newest.
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
    "serve-cpu": ("cpu", "tracing"),
    "serve-gpu": ("gpu", "tracing"),
    "export": ("cpu", "export"),
    "train": ("cpu", "train"),
}
"""Files, and the extras of pyproject.toml that are in each."""

_NAME = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)
_OF_CUDA = re.compile(r"torch$|triton$|nvidia-|cuda-")
_RELEASE = re.compile(r"[0-9.]+")


def main() -> None:
    """Write all files."""
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
    """Return what stands in pyproject.toml."""
    return tomllib.loads(Path("pyproject.toml").read_text())


def first_line(role: str, project: dict[str, Any]) -> str:
    """Return the first line of a role's file: it tells whether pyproject.toml asks for something else by now."""
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
    (FOLDER / f"{role}.txt").write_text(first_line(role, project) + text)


def _compile(role: str, asked: list[str]) -> str:
    """Return what uv resolves for every platform that Python 3.11 runs on; versions pinned before are preferred."""
    fixed = ["--universal", "--python-version", "3.11", "--no-header", "--no-annotate", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pins.txt"
        before = [path.read_text() for path in (FOLDER / f"{role}.txt", FOLDER / f"{TORCH}.txt") if path.exists()]
        output.write_text("".join(before))
        command = [sys.executable, "-m", "uv", "pip", "compile", *fixed, *asked, "--output-file", str(output)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise SystemExit(f"uv could not resolve what {role} asks for.")
        return output.read_text()


def _release(version: str) -> str:
    """Return a version without the name of its build, which every build of it fits."""
    found = _RELEASE.match(version)
    assert found is not None  # a version begins with its release
    return found[0]


if __name__ == "__main__":
    main()
