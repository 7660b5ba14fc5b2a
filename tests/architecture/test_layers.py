"""Which room may import what: the table of the design, held against every import in every file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("contract", "models", "export", "service", "cli")

NEVER = {
    "contract": {
        "models",
        "export",
        "service",
        "cli",
        "torch",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "onnxruntime",
        "fastapi",
    },
    "models": {"export", "service", "cli", "onnxruntime", "fastapi", "uvicorn"},
    "export": {"models", "service", "cli", "torch", "fastapi", "uvicorn"},
    "service": {"models", "export", "cli", "torch", "onnx", "onnx_ir", "onnxscript"},
    "cli": set[str](),
}
"""What no file of a room imports, not even within a function."""

NEVER_AT_ONCE = {
    "cli": {"models", "export", "service", "torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "fastapi"}
}
"""What a file of a room imports within functions alone, so that one command does not pay for another's rooms."""

FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level package of everything that a tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (part.value.split(".")[0] for part in node.args[:1] if _is_text(part))


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


def find_violations(room: str, source: str) -> set[str]:
    """Return the packages that a file of a room imports and must not."""
    everything = set(imported(ast.parse(source)))
    at_once = set(imported(_Outermost().visit(ast.parse(source))))
    return (everything & NEVER[room]) | (at_once & NEVER_AT_ONCE.get(room, set()))


def test_there_are_files_to_look_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_imports_what_its_room_may(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    assert not find_violations(room, path.read_text())


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name == "__init__.py"], ids=lambda path: path.parent.name
)
def test_package_file_holds_a_docstring_alone(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert _is_text(body[0].value)


@pytest.mark.parametrize(
    ("room", "source", "found"),
    [
        ("service", "import torch", "torch"),
        ("service", "import torch.nn as nn", "torch"),
        ("service", "from onnx import helper", "onnx"),
        ("service", "def load():\n    from models.registry import get", "models"),
        ("service", "async def load():\n    import onnx_ir", "onnx_ir"),
        ("service", "import importlib\nimportlib.import_module('torch.onnx')", "torch"),
        ("contract", "import service.app", "service"),
        ("models", "from export import fold", "export"),
        ("export", "if True:\n    import torch", "torch"),
        ("cli", "from service.app import create_app", "service"),
        ("cli", "class A:\n    import onnx", "onnx"),
    ],
)
def test_planted_violation_is_found(room: str, source: str, found: str) -> None:
    assert find_violations(room, source) == {found}


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("service", "import onnxruntime\nfrom contract.manifest import Manifest\nfrom . import errors"),
        ("cli", "def serve():\n    from service.app import create_app"),
        ("cli", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from models.data import Split"),
        ("export", "import onnxscript_like, torchlike"),
    ],
)
def test_what_is_allowed_is_not_found(room: str, source: str) -> None:
    assert find_violations(room, source) == set()
