"""The wheel: one package, complete, and used from a folder whose own modules are called as its parts are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

import normfold
from scripts.release_check import PACKAGES, ReleaseError, build, check_files, check_metadata
from tests.support.bundles import BundleWriter
from tests.support.command import environment_without_settings
from tests.support.onnx_models import small_convnet
from tests.support.paths import ROOT, modules

pytestmark = pytest.mark.slow

DOES_NOT_IMPORT = "raise ImportError('a module of the current folder was imported')\n"

OWN_MODELS = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
"""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and a folder of a user's own."""

    python: Path
    folder: Path

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder, with the environment's programs first."""
        return subprocess.run(
            list(map(str, command)),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process there: without those that add folders to Python's path."""
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        variables = environment_without_settings(PATH=path)
        return {name: value for name, value in variables.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution of this clone."""
    _, wheel = build(tmp_path_factory.mktemp("dist"))
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An empty environment with the wheel; its dependencies are this environment's, behind it on the path.

    No index is asked: a .pth file adds the site-packages of the running Python. Those of an editable install are not
    followed from there, so that `normfold` is the wheel's.
    """
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python]
    subprocess.run([*install, wheel], check=True)
    [packages] = (folder / "venv").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in sys.path if "site-packages" in path))
    own = folder / "own"
    for name in ("service", "export"):
        (own / name).mkdir(parents=True)
        (own / name / "__init__.py").write_text(DOES_NOT_IMPORT)
    for name in ("cli", "contract", "display"):
        (own / f"{name}.py").write_text(DOES_NOT_IMPORT)
    (own / "models.py").write_text(OWN_MODELS)
    return Installed(python, own)


def test_wheel_holds_one_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert tops == {"normfold", f"normfold-{normfold.__version__}.dist-info"}


def test_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    check_files(wheel)
    check_metadata(wheel, normfold.__version__)


def test_missing_and_surplus_files_are_found(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "files")
    for change, problem in (("normfold/service/app.py", "lacks 1 files"), ("normfold/more.py", "holds, though git")):
        changed = tmp_path / f"{problem[:5]}.whl"
        with zipfile.ZipFile(changed, "w") as archive:
            for path in (tmp_path / "files").rglob("*"):
                if path.is_file() and path.relative_to(tmp_path / "files").as_posix() != change:
                    archive.write(path, path.relative_to(tmp_path / "files"))
            if problem.startswith("holds"):
                archive.writestr(change, "")
        with pytest.raises(ReleaseError, match=f"{problem}.*{change}"):
            check_files(changed)


def test_wheel_of_a_tree_with_links_is_complete(tmp_path: Path) -> None:
    """An editable install leaves links in normfold/, which hatchling must not take for the folders themselves."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tree = tmp_path / "tree"
    for name in filter(None, names.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    for package in PACKAGES:
        (tree / "normfold" / package).symlink_to(Path("..") / package)
    _, wheel = build(tmp_path / "dist", tree)
    check_files(wheel)


def test_packages_of_the_wheel_are_those_of_the_configuration() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert settings["sources"] == {package: f"normfold/{package}" for package in PACKAGES}
    assert set(settings["only-include"]) == {"normfold", *PACKAGES}


def test_import_takes_the_wheel(installed: Installed) -> None:
    code = (
        "import normfold, json, sys\n"
        "[getattr(normfold, name) for name in normfold.__all__]\n"
        "import normfold.cli.main, normfold.service.app, normfold.export.errors, normfold.models.errors\n"
        "print(json.dumps([normfold.__file__, normfold.export.__file__, normfold.service.app.__file__]))"
    )
    done = installed.run(installed.python, "-c", code)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(installed.python.parents[1])) for path in json.loads(done.stdout))


@pytest.mark.parametrize("as_module", [False, True])
def test_command_runs(installed: Installed, as_module: bool) -> None:
    command = [installed.python, "-m", "normfold"] if as_module else [installed.python.with_name("normfold")]
    done = installed.run(*command, "--version")
    assert (done.returncode, done.stdout) == (0, f"normfold {normfold.__version__}\n"), done.stderr
    assert "repository" in installed.run(*command, "--help").stdout


def test_folding_works(installed: Installed) -> None:
    onnx.save(small_convnet(np.random.default_rng(0)), installed.folder / "net.onnx")
    code = "import normfold; print(normfold.fold('net.onnx', 'folded.onnx').report.batchnorm_after)"
    done = installed.run(installed.python, "-c", code)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_factory_in_a_module_called_models_is_the_users(installed: Installed) -> None:
    done = installed.run("normfold", "export", "models:net", "--input", "1x8x8", "--no-monitor", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bundle"] == "model_repository/net/1"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_bundle_is_served(installed: Installed, tmp_path: Path, workers: str) -> None:
    BundleWriter(tmp_path).digits()
    command = ["normfold", "serve", "--repository", str(tmp_path), "--port", "0", "--json", "--workers", workers]
    process = subprocess.Popen(
        command, cwd=installed.folder, env=installed.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        code = (
            "import normfold, sys, time\n"
            "client = normfold.Client(sys.argv[1])\n"
            "while not client.ready('digits'): time.sleep(0.05)\n"
            "print(len(client.predict('digits', [[[0.0] * 4] * 4])[0].probabilities))"
        )
        url = json.loads(process.stdout.readline())["url"]
        done = installed.run(installed.python, "-c", code, url)
        assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_docker_build_gets_every_module_of_the_wheel() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [Path(rule[1:]) for rule in rules if rule.startswith("!")]
    left_out = [
        path
        for path in modules()
        if path.parts[0] in (*PACKAGES, "normfold")
        and not any(path.match(rule.as_posix()) or rule in path.parents for rule in allowed)
    ]
    assert not left_out
