"""Train, fold, verify, export and serve batch-normalised networks::

    train       train a network, and write a run folder
    find_learning_rate  suggest a learning rate for a run
    audit       find problems of BatchNorm layers
    fold        fold the BatchNormalization of an ONNX file into the weights around it
    inspect     show what a fold would do, with a drawing
    verify      compare two ONNX models, relative to the rounding noise of the first
    export      fold a run folder, an ONNX file or a torch network, and write a bundle
    quantize    write a network in int8 or float16, with a proof of how near it is
    adapt       recalibrate a bundle's statistics from samples, and publish a new version
    unfold      give a folded network its BatchNormalization again, for further training
    repair      put BatchNormalization in training mode into inference mode
    load_repository     run the models of a repository in this process
    create_app  the service, as an ASGI application
    Client      a client of a running service
    bench       measure the rate and latency of a running service under load

Each name is imported with its dependencies when it is first used: `import normfold` loads neither torch nor onnx nor
onnxruntime. Errors: `normfold.errors`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import normfold.export as _export_package

if TYPE_CHECKING:
    from normfold import errors as errors
    from normfold._adapt import AdaptResult as AdaptResult
    from normfold._adapt import adapt as adapt
    from normfold._app import create_app as create_app
    from normfold._audit import AuditResult as AuditResult
    from normfold._audit import audit as audit
    from normfold._bench.bench import bench as bench
    from normfold._bench.result import BenchResult as BenchResult
    from normfold._bench.result import LoadResult as LoadResult
    from normfold._export import ExportResult as ExportResult
    from normfold._export import export as export
    from normfold._fold import FoldResult as FoldResult
    from normfold._fold import fold as fold
    from normfold._inspect import InspectResult as InspectResult
    from normfold._inspect import inspect as inspect
    from normfold._learning_rate.find import LearningRateResult as LearningRateResult
    from normfold._learning_rate.find import find_learning_rate as find_learning_rate
    from normfold._repository import ModelRepository as ModelRepository
    from normfold._repository import RepositoryModel as RepositoryModel
    from normfold._repository import load_repository as load_repository
    from normfold._shared.predictions import ClassProbability as ClassProbability
    from normfold._shared.predictions import LabelsPrediction as LabelsPrediction
    from normfold._shared.predictions import PredictedValue as PredictedValue
    from normfold._shared.predictions import Prediction as Prediction
    from normfold._shared.quantize import QuantizeResult as QuantizeResult
    from normfold._shared.quantize import quantize as quantize
    from normfold._shared.repair import RepairResult as RepairResult
    from normfold._shared.repair import repair as repair
    from normfold._shared.unfold import UnfoldResult as UnfoldResult
    from normfold._shared.unfold import unfold as unfold
    from normfold._train import TrainResult as TrainResult
    from normfold._train import train as train
    from normfold._verify import VerifyResult as VerifyResult
    from normfold._verify import verify as verify
    from normfold.client import Client as Client
    from normfold.client import ModelVersion as ModelVersion
    from normfold.errors import CheckError as CheckError
    from normfold.errors import ClientError as ClientError
    from normfold.errors import InputError as InputError
    from normfold.errors import NormfoldError as NormfoldError
    from normfold.errors import SetupError as SetupError

    __version__: str

_MODULES = {
    "_train": ("train", "TrainResult"),
    "_learning_rate.find": ("find_learning_rate", "LearningRateResult"),
    "_audit": ("audit", "AuditResult"),
    "_fold": ("fold", "FoldResult"),
    "_inspect": ("inspect", "InspectResult"),
    "_verify": ("verify", "VerifyResult"),
    "_export": ("export", "ExportResult"),
    "_shared.quantize": ("quantize", "QuantizeResult"),
    "_adapt": ("adapt", "AdaptResult"),
    "_shared.unfold": ("unfold", "UnfoldResult"),
    "_shared.repair": ("repair", "RepairResult"),
    "_repository": ("load_repository", "ModelRepository", "RepositoryModel"),
    "_app": ("create_app",),
    "client": ("Client", "ModelVersion"),
    "_bench.bench": ("bench",),
    "_bench.result": ("BenchResult", "LoadResult"),
    "_shared.predictions": ("Prediction", "ClassProbability", "LabelsPrediction", "PredictedValue"),
    "errors": ("NormfoldError", "InputError", "CheckError", "SetupError", "ClientError"),
}
"""Module to the public names that it has."""

_PLACES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*_PLACES, "errors"]


class _ExportPackage(ModuleType):
    # The package `normfold.export`, which can be called: `normfold.export("runs/digits")` is the function. Importing a
    # module of the package binds the package to the name `export` here, so a function of that name could not stay.

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        from normfold._export import export

        return export.__doc__

    @property
    def __signature__(self) -> Any:
        from inspect import signature

        from normfold._export import export

        return signature(export)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from normfold._export import export

        return export(*args, **kwargs)


_export_package.__class__ = _ExportPackage


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = getattr(import_module(f"normfold.{_PLACES[name]}"), name)
    elif name == "errors":
        value = import_module("normfold.errors")
    elif name == "__version__":
        from importlib.metadata import version

        value = version("normfold")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
