"""Within `service`, `export` and `models` a folder imports only folders below it, also for types alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import LAYERS, ROOT, modules

FILES = [path for path in modules() if path.parts[0] in LAYERS]


def layer_of(path: Path) -> str:
    """Return the folder below the package, or the module beside the folders, that a path lies in."""
    return path.parts[1].removesuffix(".py")


def imported_layers(package: str, source: str) -> Iterator[str]:
    """Yield the layers of its own package that a source imports."""
    for node in ast.walk(ast.parse(source)):
        imported: list[str] = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in imported:
            parts = name.split(".")
            if parts[:2] == ["normfold", package] and len(parts) > 2:
                yield parts[2]


def upward_imports(package: str, layer: str, source: str) -> set[str]:
    """Return the layers above its own that a source imports."""
    order = LAYERS[package]
    return {found for found in imported_layers(package, source) if order.index(found) > order.index(layer)}


@pytest.mark.parametrize("package", LAYERS)
def test_every_folder_is_a_layer(package: str) -> None:
    assert {layer_of(path) for path in FILES if path.parts[0] == package} == set(LAYERS[package])


def test_files_import_no_layer_above_their_own() -> None:
    found = {str(path): upward_imports(path.parts[0], layer_of(path), (ROOT / path).read_text()) for path in FILES}
    assert not {path: layers for path, layers in found.items() if layers}


@pytest.mark.parametrize(
    ("package", "layer", "source", "found"),
    [
        ("service", "codec", "from normfold.service.http.body import read", {"http"}),
        ("service", "batching", "from normfold.service import app", {"app"}),
        ("service", "drift", "import normfold.service.workers.state_dir", {"workers"}),
        ("service", "http", "if TYPE_CHECKING:\n    from normfold.service.routes import paths", {"routes"}),
        ("export", "graph", "def f():\n    from normfold.export.fold.plan import Plan", {"fold"}),
        ("models", "data", "from normfold.models.training.run import Run", {"training"}),
        ("service", "http", "from normfold.service.codec import headers", set[str]()),
        ("service", "http", "from normfold.service.http import body", set[str]()),
        ("export", "fold", "from normfold.contract.errors import NormfoldError", set[str]()),
    ],
)
def test_planted_upward_import_is_found(package: str, layer: str, source: str, found: set[str]) -> None:
    assert upward_imports(package, layer, source) == found
