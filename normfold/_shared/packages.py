"""Checks that optional packages are installed, before they are imported."""

from __future__ import annotations

from importlib.util import find_spec

from normfold.contract.errors import MissingPackageError


def require_packages(*packages: str, extra: str, needed_for: str) -> None:
    """Check that packages can be imported, without importing them.

    Raises:
        MissingPackageError: naming the first that is not installed, and the extra it comes with.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingPackageError(package, extra, needed_for)


def require_export(needed_for: str) -> None:
    """Check that what folding and verifying need is installed.

    Raises:
        MissingPackageError: a package is missing.
        RuntimePackageError: no ONNX Runtime is installed, or two are.
    """
    from normfold.contract.onnxruntime_package import require_onnxruntime

    require_packages("onnx", "onnx_ir", "safetensors", extra="export", needed_for=needed_for)
    require_onnxruntime()
