"""Rules of the tests themselves: which module imports which, and how tests are named."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("*.py"))
MAX_SUPPORT_MODULES = 12


def imported_modules(source: str) -> set[str]:
    """Return the modules that a source imports, and the names that it imports from them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def forbidden_imports(source: str) -> set[str]:
    """Return the test modules and conftest files that a source imports."""
    return {
        module
        for module in imported_modules(source)
        if module.startswith(".")
        or any(part.startswith("test_") or part == "conftest" for part in module.split("."))
        or (module.startswith("tests.") and not f"{module}.".startswith("tests.support."))
    }


@pytest.mark.slow
def test_no_module_imports_a_test_module() -> None:
    found = {str(path.relative_to(TESTS)): forbidden_imports(path.read_text()) for path in FILES}
    assert {path: modules for path, modules in found.items() if modules} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from tests.service.http.test_http import TEXT",
        "from tests.service.http import test_http",
        "import tests.service.conftest",
        "from tests import conftest",
        "from . import helpers",
        "from conftest import run",
        "def read():\n    from test_http import TEXT",
    ],
)
def test_import_of_a_test_module_is_found(source: str) -> None:
    assert forbidden_imports(source)


@pytest.mark.parametrize("source", ["from tests.support.paths import ROOT", "from tests import support", "import json"])
def test_import_of_a_support_module_is_allowed(source: str) -> None:
    assert not forbidden_imports(source) - {"tests.support"}


def test_support_has_few_modules() -> None:
    assert len(list((TESTS / "support").glob("*.py"))) <= MAX_SUPPORT_MODULES


def run_planted(folder: Path, source: str, *options: str) -> tuple[int, str]:
    """Run a planted test file with the project's conftest; return pytest's exit code and what it printed."""
    (folder / "test_planted.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", folder, *options, folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


SKIPPED = """
import pytest

def test_passes():
    pass

@pytest.mark.parametrize("number", range(3))
def test_of_a_gpu(number):
    pytest.skip("no NVIDIA GPU")
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--numprocesses", "2")])
def test_run_reports_skipped_tests_by_reason(tmp_path: Path, options: tuple[str, ...]) -> None:
    code, out = run_planted(tmp_path, SKIPPED + '\ndef test_of_wrk():\n    pytest.skip("no wrk")\n', *options)
    assert code == 0
    assert "3 tests: no NVIDIA GPU\n1 test: no wrk\n" in out


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--numprocesses", "2")])
@pytest.mark.parametrize(
    ("source", "code"),
    [
        (SKIPPED, 0),
        (SKIPPED + '\ndef test_of_wrk():\n    pytest.skip("no wrk")\n', 1),
        ('import pytest\npytest.skip("no wrk", allow_module_level=True)', 5),
    ],
)
def test_option_fail_on_skip_fails_a_run_with_a_skip_that_is_not_allowed(
    tmp_path: Path, source: str, code: int, options: tuple[str, ...]
) -> None:
    found, out = run_planted(tmp_path, source, "--fail-on-skip", *options)
    assert found == code
    assert ("may not be (--fail-on-skip)" in out) == (code == 1)


ALONE = """
import time
from pathlib import Path

import pytest

def run(name):
    begun = time.monotonic()
    time.sleep(0.1)
    with Path(__file__).with_name("times").open("a") as file:
        file.write(f"{name} {begun} {time.monotonic()}\\n")

@pytest.mark.parametrize("number", range(4))
def test_beside_others(number):
    run("beside")

@pytest.mark.alone
@pytest.mark.parametrize("number", range(2))
def test_alone(number):
    run("alone")
"""


@pytest.mark.slow
def test_marker_alone_keeps_other_processes_waiting(tmp_path: Path) -> None:
    (tmp_path / "test_others.py").write_text(ALONE)
    code, out = run_planted(tmp_path, ALONE, "--numprocesses", "2", "--dist", "loadfile")
    assert code == 0, out

    runs = [line.split() for line in (tmp_path / "times").read_text().splitlines()]
    assert Counter(name for name, _, _ in runs) == {"beside": 8, "alone": 4}
    overlaps = [
        (one[0], other[0])
        for one, other in combinations(runs, 2)
        if float(one[1]) < float(other[2]) and float(other[1]) < float(one[2])
    ]
    assert ("beside", "beside") in overlaps
    assert set(overlaps) == {("beside", "beside")}


NO_SUBJECTS = re.compile(
    "test_(what|whatever|its?|they|them|their|those|these|this|that|he|she|we|you|his|how|whether|which|who|whom|whose"
    "|whoever|nobody|none|somebody|anybody|everybody|there)_"
)
"""Beginnings of a test's name that do not name its subject."""


def names_without_subject(source: str) -> list[str]:
    """Return the names of tests in a source that begin with a pronoun or a question word."""
    names = re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE)
    return [name for name in names if NO_SUBJECTS.match(name)]


def test_names_of_tests_begin_with_their_subject() -> None:
    found = {str(path.relative_to(TESTS)): names_without_subject(path.read_text()) for path in FILES}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize("name", ["what_cannot_be_read_is_refused", "it_is_small", "they_end", "none_is_left"])
def test_name_without_a_subject_is_found(name: str) -> None:
    assert names_without_subject(f"def test_{name}():\n    pass") == [f"test_{name}"]


@pytest.mark.parametrize("name", ["batcher_splits_a_batch", "itself", "theirs_is_no_pronoun_here"])
def test_name_with_a_subject_is_allowed(name: str) -> None:
    assert names_without_subject(f"def test_{name}():\n    pass") == []
