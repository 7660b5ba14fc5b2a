"""Check that exactly one of the packages with the import name `onnxruntime` is installed.

Two of them overwrite each other's files, and the order of installation decides which execution providers work. The
check reads package metadata only, so that it is fast, and works where ONNX Runtime cannot be imported.
"""

from __future__ import annotations

import functools
import os
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from normfold.contract.errors import SetupError
from normfold.contract.install import how_to_install

_DISABLE_TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""ONNX Runtime's own variable: from 1.32 on it sends usage data to its vendor unless this is set."""

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
    """Check that exactly one ONNX Runtime is installed, and disable its telemetry unless the environment sets it.

    A build under another package name passes too, if `onnxruntime` can be imported.

    Raises:
        RuntimePackageError: none of the packages is installed, or more than one.
    """
    os.environ.setdefault(_DISABLE_TELEMETRY, "1")
    installed = tuple(name for name in _PACKAGES if _is_installed(name))
    if len(installed) > 1 or (not installed and find_spec("onnxruntime") is None):
        raise RuntimePackageError(installed)


@functools.cache  # asked for every session, 0.7 ms each
def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
