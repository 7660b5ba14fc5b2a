"""The image: how large it is, and what is in it."""

from __future__ import annotations

import pytest

from tests.support.containers import BASE, Engine

MAX_MB = 240
SITE = "/opt/normfold/lib/python3.11/site-packages"


def run(engine: Engine, image: str, script: str) -> str:
    """Run a shell script in the image."""
    return engine("run", "--rm", "--entrypoint", "sh", image, "-c", script).strip()


def test_image_is_small(engine: Engine, image: str) -> None:
    size, base = engine.size_mb(image), engine.size_mb(BASE)

    print(f"\nthe image has {size:.0f} MB, {size - base:.0f} above its base (at most {MAX_MB})")
    assert size - base <= MAX_MB


@pytest.mark.parametrize("package", ["torch", "onnx", "onnxscript", "sklearn", "matplotlib", "pip"])
def test_image_has_no_packages_for_training_or_export(engine: Engine, image: str, package: str) -> None:
    assert run(engine, image, f"ls -d {SITE}/{package} 2>/dev/null || echo none") == "none"


@pytest.mark.parametrize("program", ["gcc", "cc", "g++", "make", "curl", "wget"])
def test_image_has_no_compiler_and_no_downloader(engine: Engine, image: str, program: str) -> None:
    assert run(engine, image, f"command -v {program} || echo none") == "none"


def test_image_has_compiled_bytecode(engine: Engine, image: str) -> None:
    find = f"find {SITE} -name '*.py' -path '*service*'"
    sources, compiled = run(engine, image, f"{find} | wc -l; {find.replace('*.py', '*.pyc')} | wc -l").split()

    assert int(sources) > 50
    assert int(compiled) == int(sources)
    for module in ("numpy/__init__", "onnxruntime/__init__", "fastapi/applications"):
        folder, name = module.rsplit("/", 1)
        assert run(engine, image, f"ls {SITE}/{folder}/__pycache__/{name}.cpython-311.pyc")


def test_image_runs_as_a_numbered_user_that_is_not_root(engine: Engine, image: str) -> None:
    assert engine.inspect(image)["Config"]["User"] == "10001:10001"
    assert run(engine, image, "id -u; id -g").split() == ["10001", "10001"]


def test_image_has_no_writable_paths_beyond_the_allowed(engine: Engine, image: str) -> None:
    writable = run(engine, image, "find / -xdev -writable -not -type l -not -path '/proc/*' 2>/dev/null; true").split()

    allowed = ("/tmp", "/var/tmp", "/models", "/dev", "/run", "/proc", "/sys")
    assert [path for path in writable if not path.startswith(allowed)] == []


def test_image_declares_stop_signal_and_health_check(engine: Engine, image: str) -> None:
    config = engine.inspect(image)["Config"]

    assert config["StopSignal"] in ("SIGTERM", "15")
    assert engine.health_check(image) == ["python", "-m", "normfold.service.healthcheck"]
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_wrong_setting_ends_the_container_with_a_sentence(engine: Engine, image: str) -> None:
    script = "NORMFOLD_PROT=1 normfold serve 2>&1; echo $?"

    text, code = run(engine, image, script).rsplit("\n", 1)

    assert "NORMFOLD_PORT" in text
    assert "Traceback" not in text
    assert code == "2"
