"""`import normfold` and the start of the command: what they load, how long they take, which names there are."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import normfold
from normfold import _fold
from normfold.cli.main import COMMANDS, app
from tests.support.paths import ROOT

HEAVY = {"torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "fastapi", "starlette", "uvicorn", "matplotlib"}
VALIDATION = {"pydantic", "pydantic_settings"}

IMPORT_LIMIT_S = 0.05
START_LIMIT_S = 0.35
RUNS = 5


def loaded_after(code: str) -> set[str]:
    """Return the top-level packages that a new Python has loaded after running some code."""
    end = "\nimport json, sys\nsys.stderr.write(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + end], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr))


def median_seconds(*command: str) -> float:
    """Return the processor time of a Python command: the median of RUNS; the first, which reads from disk, is left out.

    On a machine with nothing else to do it is the time that passes; on a busy one that would be of the others too.
    """
    seconds = []
    for _ in range(RUNS + 1):
        process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        seconds.append(usage.ru_utime + usage.ru_stime)
    return statistics.median(seconds[1:])


def is_within(limit_s: float, *command: str) -> bool:
    """Whether a command takes at most so much longer than a bare Python; a noisy measurement gets three tries."""
    return any(median_seconds(*command) - median_seconds("-c", "") <= limit_s for _ in range(3))


def test_import_loads_no_package_of_a_single_function() -> None:
    assert not loaded_after("import normfold") & (HEAVY | VALIDATION | {"numpy", "rich", "typer", "PIL"})


@pytest.mark.alone
@pytest.mark.slow
def test_import_takes_under_50_ms() -> None:
    assert is_within(IMPORT_LIMIT_S, "-c", "import normfold")


def test_errors_are_cheap_to_import() -> None:
    assert not loaded_after("import normfold.errors") & (HEAVY | VALIDATION | {"numpy"})


@pytest.mark.slow
def test_client_loads_neither_a_server_nor_a_runtime() -> None:
    assert not loaded_after("import normfold\nnormfold.Client()") & HEAVY


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_command_start_loads_no_package_of_a_single_command(option: str) -> None:
    code = f"import sys\nsys.argv = ['normfold', '{option}']\nfrom normfold.cli.main import main"
    code += "\ntry: main()\nexcept SystemExit: pass"
    assert not loaded_after(code) & (HEAVY | VALIDATION | {"numpy"})


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_command_starts_within_its_limit(option: str) -> None:
    assert is_within(START_LIMIT_S, "-m", "normfold", option)


@pytest.mark.alone
@pytest.mark.slow
def test_slow_import_is_found_by_the_measurement() -> None:
    assert not is_within(IMPORT_LIMIT_S, "-c", "sum(range(20_000_000))")


def test_each_command_is_imported_alone() -> None:
    code = "from normfold.cli.main import app\nimport typer\ntyper.main.get_command(app).commands['keys']"
    end = "\nimport json, sys\nsys.stderr.write(json.dumps([name for name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code + end], capture_output=True, text=True, check=True)
    commands = {name for name in json.loads(done.stderr) if name.startswith("normfold.cli.commands.")}
    assert commands == {"normfold.cli.commands.keys"}


def test_every_module_of_a_command_is_listed() -> None:
    modules = {path.stem for path in (ROOT / "cli" / "commands").rglob("*.py")} - {"__init__"}
    assert modules == set(COMMANDS)
    assert app.info.name == "normfold"


def test_module_runs_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "normfold", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"normfold {normfold.__version__}\n"


@pytest.mark.parametrize("name", normfold.__all__)
def test_public_name_is_found_and_documented(name: str) -> None:
    value = getattr(normfold, name)
    assert name in dir(normfold)
    assert inspect.getdoc(value)


@pytest.mark.parametrize("name", [name for name in normfold.__all__ if name[0].islower() and name != "errors"])
def test_public_function_has_an_example_arguments_and_errors(name: str) -> None:
    function = getattr(normfold, name)
    text = inspect.getdoc(function) or ""
    documented = text[text.index("Args:") :]
    assert "Example:\n    >>> import normfold\n" in text
    assert "Raises:" in documented
    for parameter in inspect.signature(function).parameters:
        assert f"\n    {parameter}: " in documented


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'normfold' has no attribute 'forecast'"):
        _ = normfold.forecast  # type: ignore[attr-defined]


def test_name_is_the_one_of_its_module_and_stays() -> None:
    assert normfold.fold is _fold.fold
    assert "fold" in vars(normfold)


def test_export_is_a_function_and_a_package() -> None:
    errors = importlib.import_module("normfold.export.errors")

    assert normfold.export is sys.modules["normfold.export"]
    assert errors.ModelFileError is normfold.errors.ModelFileError
    assert (inspect.getdoc(normfold.export) or "").startswith("Fold a network, verify the fold")
    assert list(inspect.signature(normfold.export).parameters)[:2] == ["source", "repository"]


def test_types_are_marked_for_checkers() -> None:
    assert Path(normfold.__file__).with_name("py.typed").is_file()
