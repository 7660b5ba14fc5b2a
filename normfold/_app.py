"""`normfold.create_app`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normfold._shared.argument_checks import PATH, check_optional
from normfold._shared.packages import require_packages
from normfold._shared.paths import AnyPath, optional_path

if TYPE_CHECKING:
    from fastapi import FastAPI


def create_app(repository: AnyPath | None = None, **settings: Any) -> FastAPI:
    """Build the service as an ASGI application, for your own server or as a part of another application.

    Models load in the background once the application has started. `normfold serve` runs the same application behind
    its own HTTP server, which is faster and enforces limits on connections and headers that an ASGI server may lack.

    With the example in `my_module.py`, `uvicorn my_module:app` runs it.

    Example:
        >>> import normfold
        >>> app = normfold.create_app("model_repository", provider="cpu")

    Args:
        repository: folder of models; NORMFOLD_REPOSITORY or `model_repository` without it.
        settings: fields of `normfold.service.settings.Settings`; they override the environment's variables.

    Raises:
        ArgumentError: `repository` is not a path.
        RuntimePackageError: no ONNX Runtime is installed, or two are.
        SettingsError: a setting, or a variable of the environment that sets one, is wrong or unknown.
    """
    check_optional(PATH, repository=repository)
    require_packages("fastapi", extra="cpu", needed_for="normfold.create_app")
    from normfold.contract.onnxruntime_package import require_onnxruntime
    from normfold.service.app import create_app as create_service
    from normfold.service.settings import load_settings

    require_onnxruntime()
    return create_service(load_settings(repository=optional_path(repository), **settings))
