"""Which package may import what: the table of the design, held against every import in every file."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

PACKAGES = ("contract", "models", "export", "service", "display", "cli", "normfold")

OURS = {"contract", "models", "export", "service", "display", "cli"}

NEVER = {
    "contract": OURS - {"contract"} | {"torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "fastapi"},
    "models": OURS - {"contract", "models"} | {"onnxruntime", "fastapi", "uvicorn"},
    "export": OURS - {"contract", "export"} | {"torch", "fastapi", "uvicorn"},
    "service": OURS - {"contract", "service"} | {"torch", "onnx", "onnx_ir", "onnxscript"},
    "display": {"cli", "service", "torch", "fastapi", "uvicorn"},
    "cli": set[str](),
    "normfold": {"cli"},
}
"""What no file of a package imports, not even within a function. Our own packages stand without `normfold.`."""

NEVER_AT_ONCE = {
    "cli": {"models", "export", "service", "torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "fastapi"},
    "normfold": {"torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "fastapi", "pydantic"},
}
"""What a file imports within functions alone, so that one command does not pay for the packages of another."""

FILES = sorted(
    path
    for package in PACKAGES
    for pattern in (("*.py", "_*/*.py") if package == "normfold" else ("**/*.py",))
    for path in (ROOT / package).glob(pattern)
    if path != ROOT / "normfold" / "__main__.py"
)
"""`normfold/` holds links to the other packages where the install is editable; its `__main__.py` is the command."""


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level package of everything that a tree imports; of ours, the package below `normfold`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (_package(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules = [f"normfold.{alias.name}" for alias in node.names] if node.module == "normfold" else [node.module]
            yield from map(_package, modules)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (_package(ast.literal_eval(part)) for part in node.args[:1] if _is_text(part))


def _package(module: str) -> str:
    first, _, rest = module.partition(".")
    return rest.split(".")[0] if first == "normfold" and rest else first


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


class _Outermost(ast.NodeTransformer):
    """Takes away what runs only when it is called, or is read by type checkers alone."""

    def visit_FunctionDef(self, _: ast.FunctionDef) -> None:
        return None

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]  # noqa: N815

    def visit_If(self, node: ast.If) -> ast.AST:
        if ast.unparse(node.test).endswith("TYPE_CHECKING"):
            return ast.Module(node.orelse, [])
        return self.generic_visit(node)


def find_violations(package: str, source: str) -> set[str]:
    """Return the packages that a file of a package imports and must not."""
    tree = ast.parse(source)
    found = set(imported(tree)) & NEVER[package]
    if package in NEVER_AT_ONCE:
        found |= set(imported(_Outermost().visit(tree))) & NEVER_AT_ONCE[package]
    return found


def test_architecture_tests_find_files() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(PACKAGES)


def holds_a_docstring_alone(source: str) -> bool:
    """Return whether a source is one string and nothing else."""
    body = ast.parse(source).body
    return len(body) == 1 and isinstance(body[0], ast.Expr) and _is_text(body[0].value)


def test_files_import_what_their_package_may() -> None:
    names = {path.relative_to(ROOT): path.read_text() for path in FILES}
    found = {str(path): find_violations(path.parts[0], source) for path, source in names.items()}
    assert not {path: packages for path, packages in found.items() if packages}


def test_package_files_hold_a_docstring_alone() -> None:
    packages = [path for path in FILES if path.name == "__init__.py" and path.parent.name != "normfold"]
    assert len(packages) > 30
    assert not [path for path in packages if not holds_a_docstring_alone(path.read_text())]


@pytest.mark.parametrize("source", ["", "import os", "'Text.'\nimport os", "1", "'Text.'\n'More.'"])
def test_planted_code_of_a_package_file_is_found(source: str) -> None:
    assert not holds_a_docstring_alone(source)


@pytest.mark.parametrize(
    ("package", "source", "found"),
    [
        ("service", "import torch", "torch"),
        ("service", "import torch.nn as nn", "torch"),
        ("service", "from onnx import helper", "onnx"),
        ("service", "def load():\n    from normfold.models.architectures.registry import get", "models"),
        ("service", "async def load():\n    import onnx_ir", "onnx_ir"),
        ("service", "import importlib\nimportlib.import_module('torch.onnx')", "torch"),
        ("contract", "import normfold.service.app", "service"),
        ("models", "from normfold.export import fold", "export"),
        ("models", "from normfold import export", "export"),
        ("display", "import normfold.cli.main", "cli"),
        ("export", "if True:\n    import torch", "torch"),
        ("cli", "from normfold.service.app import create_app", "service"),
        ("cli", "class A:\n    import onnx", "onnx"),
        ("normfold", "def fold():\n    from normfold.cli.main import main", "cli"),
        ("normfold", "import torch", "torch"),
    ],
)
def test_planted_violation_is_found(package: str, source: str, found: str) -> None:
    assert find_violations(package, source) == {found}


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("service", "import onnxruntime\nfrom normfold.contract.manifest import Manifest\nfrom . import errors"),
        ("cli", "def serve():\n    from normfold.service.app import create_app"),
        ("cli", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from normfold.models.data import Split"),
        ("export", "import onnxscript_like, torchlike"),
        ("service", "from normfold import contract"),
    ],
)
def test_allowed_import_is_not_reported(package: str, source: str) -> None:
    assert find_violations(package, source) == set()
