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
        asked = [option for extra in extras for option in ("--extra", extra)] + ["pyproject.toml"]
        if role == "train":
            resolved = _resolved(asked)
            _write(TORCH, project, f"torch=={_release(resolved['torch'])}\n")
            asked += [option for name in resolved if _OF_CUDA.match(name) for option in ("--no-emit-package", name)]
        _lock(role, project, [*asked, *upgrade])
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


def _lock(role: str, project: dict[str, Any], options: list[str]) -> None:
    path = FOLDER / f"{role}.txt"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / path.name
        if path.exists():
            output.write_text(path.read_text())  # its versions are preferred
        _compile([*options, "--generate-hashes", "--output-file", str(output)])
        _write(role, project, output.read_text())


def _write(role: str, project: dict[str, Any], text: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{role}.txt").write_text(first_line(role, project) + text)


def _resolved(options: list[str]) -> dict[str, str]:
    return dict(_NAME.findall(_compile(options)))


def _compile(options: list[str]) -> str:
    """Run uv's resolver for every platform that Python 3.11 runs on."""
    fixed = ["--universal", "--python-version", "3.11", "--no-header", "--no-annotate", "--quiet"]
    command = [sys.executable, "-m", "uv", "pip", "compile", *fixed, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"uv could not resolve {' '.join(options)}.")
    return done.stdout


def _release(version: str) -> str:
    """Return a version without the name of its build, which every build of it fits."""
    found = _RELEASE.match(version)
    assert found is not None  # a version begins with its release
    return found[0]


if __name__ == "__main__":
    main()
