"""Which ONNX Runtime is installed: exactly one of the two packages that share the import name `onnxruntime`.

Both at once overwrite each other's files, and which providers then work depends on the order of installation. The
check reads package metadata alone, so that it costs nothing and works where ONNX Runtime itself would not import.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from contract.errors import SetupError

_PACKAGES = ("onnxruntime", "onnxruntime-gpu")


class RuntimePackageError(SetupError):
    """No ONNX Runtime is installed, or two are."""

    def __init__(self, installed: tuple[str, ...]) -> None:
        if installed:
            problem = (
                f"The packages {' and '.join(map(repr, installed))} are both installed and overwrite each other; "
                f"remove both with: pip uninstall {' '.join(installed)}; then install one"
            )
        else:
            problem = "ONNX Runtime is not installed; install it"
        super().__init__(f"{problem} with: pip install 'normfold[cpu]' (or 'normfold[gpu]').")
        self.installed = installed


def require_onnxruntime() -> None:
    """Check that exactly one ONNX Runtime is installed; one of another name (built by hand, OpenVINO's) will do.

    Raises:
        RuntimePackageError: neither package is installed, or both are.
    """
    installed = tuple(name for name in _PACKAGES if _is_installed(name))
    if len(installed) > 1 or (not installed and find_spec("onnxruntime") is None):
        raise RuntimePackageError(installed)


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
