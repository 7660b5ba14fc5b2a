"""Rules of the tests themselves: which module imports which, and how tests are named."""

from __future__ import annotations

import ast

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
