"""Folders of the repository that tests read, and the layers that they form."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""

GRAPHS = ROOT / "tests" / "graphs"
"""Graphs of published architectures, without weights; see `tests.support.published_graphs`."""

FOLDERS = ("benchmarks", "cli", "contract", "display", "export", "models", "normfold", "scripts", "service", "tests")
"""Top-level folders that hold Python modules."""

LAYERS = {
    "export": (
        *("arrays", "errors", "onnx_io", "graph", "fold", "verify", "bundle"),
        *("quantize", "files", "repository", "adapt", "precision", "unfold", "repair", "triton"),
    ),
    "models": (
        *("errors", "frozen", "weight_files", "architectures", "statistics", "data", "tasks"),
        *("training", "batchnorm", "onnx", "study"),
    ),
    "service": (
        *("errors", "rollout_options", "proxy", "settings", "logs", "error_responses", "background", "file_lock"),
        "network",
        *("codec", "auth", "runtime", "batching", "observability"),
        *(
            "drift",
            "repository",
            "rollout",
            "workers",
            "inference",
            "http",
            "routes",
            "web",
            "grpc",
            "app",
            "healthcheck",
        ),
    ),
}
"""Folders and modules of a package, from the lowest to the highest: each imports only itself and those before it."""


def modules() -> list[Path]:
    """Return every Python module of the project but `__init__.py`, relative to the repository."""
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT) for path in found if path.name != "__init__.py" and not _is_linked(path))


def _is_linked(path: Path) -> bool:
    """Return whether a module is reached through a link: an editable install puts them into normfold/."""
    return any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(ROOT))
