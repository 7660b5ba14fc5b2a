"""Which ONNX Runtime is installed: exactly one of the packages that share the import name `onnxruntime`.

Two at once overwrite each other's files, and which providers then work depends on the order of installation. The
check reads package metadata alone, so that it costs nothing and works where ONNX Runtime itself would not import.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from normfold.contract.errors import SetupError
from normfold.contract.install import how_to_install

_SILENT = "ORT_DISABLE_TELEMETRY"
"""ONNX Runtime's own variable: from 1.32 on it tells its makers of the machine and its use unless this is set."""

_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")


class RuntimePackageError(SetupError):
    """No ONNX Runtime is installed, or more than one."""

    def __init__(self, installed: tuple[str, ...]) -> None:
        if installed:
            all_of_them = "both" if len(installed) == 2 else "all"
            problem = (
                f"The packages {' and '.join(map(repr, installed))} are {all_of_them} installed and overwrite each "
                f"other; remove {all_of_them} with: pip uninstall {' '.join(installed)}; then install one"
            )
        else:
            problem = "ONNX Runtime is not installed; install it"
        super().__init__(f"{problem} {how_to_install('cpu', 'gpu', 'openvino')}.")
        self.installed = installed


def require_onnxruntime() -> None:
    """Check that exactly one ONNX Runtime is installed; one of another name (built by hand, say) will do.

    Before it is imported it is told to report to nobody, unless the environment says otherwise.

    Raises:
        RuntimePackageError: none of the packages is installed, or more than one.
    """
    os.environ.setdefault(_SILENT, "1")
    installed = tuple(name for name in _PACKAGES if _is_installed(name))
    if len(installed) > 1 or (not installed and find_spec("onnxruntime") is None):
        raise RuntimePackageError(installed)


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
