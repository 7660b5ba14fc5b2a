"""Everything that a release needs, checked: `make release-check`. Builds into dist/, uploads nothing.

version     the same in pyproject.toml, at the top of CHANGELOG.md, and in what is built
build       a source distribution, and the wheel from that; the wheel holds every file of the packages, no other
metadata    twine, check-wheel-contents and validate-pyproject have nothing to say
install     into an empty environment, with the extra `cpu`; the command runs there, away from the clone
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
PACKAGES = ("cli", "contract", "display", "export", "models", "service")
"""Top-level folders of the repository that are packages below `normfold` in a wheel."""

CHECKS = (
    ("twine>=7,<8", "twine", "check", "--strict"),
    ("check-wheel-contents>=0.6,<0.7", "check-wheel-contents"),
    ("validate-pyproject[all]>=0.27,<0.28", "validate-pyproject"),
)
"""Tools of others: what to install of each, in an environment of its own, and how it is called."""

_HEADING = re.compile(r"^## \[([^\]]+)\] - (.+)$", re.MULTILINE)

console = Console(highlight=False)


class ReleaseError(Exception):
    """The release is not as it should be; the sentence says what is wrong."""


def main() -> None:
    """Run every check; leave with 1 at the first that fails."""
    try:
        shutil.rmtree(DIST, ignore_errors=True)
        version = check_version()
        sdist, wheel = build(DIST)
        console.print(f"built {sdist.name} and {wheel.name}, from it")
        check_files(wheel)
        check_metadata(wheel, version)
        _run_tools(sdist, wheel)
        with tempfile.TemporaryDirectory() as folder:
            check_install(wheel, version, Path(folder))
    except (ReleaseError, subprocess.CalledProcessError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise SystemExit(1) from None
    console.print(f"{version} can be released; nothing was uploaded.")


def check_version() -> str:
    """Return the version of pyproject.toml.

    Raises:
        ReleaseError: CHANGELOG.md begins with another one.
    """
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    found = _HEADING.search((ROOT / "CHANGELOG.md").read_text())
    if found is None or found[1] != version:
        top = "no version" if found is None else found[1]
        raise ReleaseError(f"pyproject.toml has the version {version}, CHANGELOG.md begins with {top}.")
    console.print(f"version {version}, in CHANGELOG.md {found[2]}")
    return version


def build(folder: Path, root: Path = ROOT) -> tuple[Path, Path]:
    """Build the source distribution, and the wheel from it; return both.

    Args:
        folder: where they go; created if missing.
        root: of the clone.

    Raises:
        ReleaseError: hatchling says no.
    """
    _hatchling(root, "sdist", folder)
    [sdist] = folder.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as unpacked:
        with tarfile.open(sdist) as archive:
            archive.extractall(unpacked, filter="data")
        [source] = Path(unpacked).iterdir()
        _hatchling(source, "wheel", folder)
    [wheel] = folder.glob("*.whl")
    return sdist, wheel


def _hatchling(root: Path, target: str, folder: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder.absolute())]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"hatchling cannot build the {target}: {done.stderr.strip()}")


def check_files(wheel: Path, root: Path = ROOT) -> None:
    """Check that a wheel holds the files of the packages, as git has them, and no others.

    Raises:
        ReleaseError: naming some that are missing, or too many.
    """
    listed = ["git", "ls-files", "-z", "normfold", *PACKAGES]
    names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    wanted = {name if name.startswith("normfold/") else f"normfold/{name}" for name in names if name}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    for problem, files in (("lacks", wanted - found), ("holds, though git does not,", found - wanted)):
        if files:
            raise ReleaseError(f"{wheel.name} {problem} {len(files)} files, such as {min(files)}.")


def check_metadata(wheel: Path, version: str) -> None:
    """Check what a wheel says of itself.

    Raises:
        ReleaseError: another version, or no license.
    """
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    if metadata["Version"] != version:
        raise ReleaseError(f"{wheel.name} says that it is {metadata['Version']}.")
    if metadata["License-Expression"] is None or metadata["Requires-Python"] is None:
        raise ReleaseError(f"{wheel.name} says nothing of its license, or of Python's version.")


def _run_tools(sdist: Path, wheel: Path) -> None:
    arguments = {
        "twine": [str(sdist), str(wheel)],
        "check-wheel-contents": ["--ignore", "W002", str(wheel)],  # files of the same contents: docstrings alone
        "validate-pyproject": [str(ROOT / "pyproject.toml")],
    }
    for requirement, *command in CHECKS:
        run = [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--from", requirement, *command]
        subprocess.run([*run, *arguments[command[0]]], check=True)


def check_install(wheel: Path, version: str, folder: Path) -> None:
    """Install a wheel with the extra `cpu` into an empty environment, and run the command there.

    Raises:
        ReleaseError: it says another version.
    """
    uv = [sys.executable, "-m", "uv"]
    venv = folder / "venv"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(venv)], check=True)
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", str(python), f"{wheel}[cpu]"], check=True)
    script = str(python.with_name("normfold"))
    for command in ([script, "--version"], [str(python), "-m", "normfold", "--version"]):
        printed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
        if printed != f"normfold {version}":
            raise ReleaseError(f"{' '.join(command)} says {printed!r}.")
    subprocess.run([script, "serve", "--help"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    code = "import normfold; [getattr(normfold, name) for name in ('Client', 'create_app', 'load_repository')]"
    subprocess.run([str(python), "-c", code], cwd=folder, check=True)
    console.print("installed into an empty environment; the command runs")


if __name__ == "__main__":
    main()
