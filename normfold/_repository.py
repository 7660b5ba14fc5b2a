"""`normfold.load_repository`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy.typing as npt

from normfold._shared.argument_checks import (
    NAMES,
    PATH,
    TENSORS,
    TEXT,
    VERSION,
    check,
    check_optional,
    whole_number,
)
from normfold._shared.paths import AnyPath, optional_path
from normfold._shared.predictions import (
    ClassProbability,
    ImageInput,
    image_bytes,
    instances_json,
    to_prediction,
    to_tensor,
    warn_of_notes,
)
from normfold.contract.errors import InputError

if TYPE_CHECKING:
    from normfold.contract.manifest import Manifest
    from normfold.service.codec.signature import ModelSignature
    from normfold.service.repository.loaded_model import Model
    from normfold.service.settings import Settings

Array = npt.NDArray[Any]
Result = TypeVar("Result")


class ModelRepository:
    """The models of a repository, loaded into this process; a context manager. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        from normfold.service.batching.thread_pool import ThreadPool
        from normfold.service.observability.access_log import LoggerAccessLog
        from normfold.service.observability.telemetry import Telemetry
        from normfold.service.repository.repository import Repository
        from normfold.service.runtime.cpu_limits import share_of_processors

        self._settings = settings
        self._threads = ThreadPool(share_of_processors(1) + 1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="normfold-repository", daemon=True)
        self._thread.start()
        self._repository = Repository(settings, self._threads, Telemetry(LoggerAccessLog()))
        try:
            self._run(self._repository.refresh(loading=settings.model_control != "explicit"))
            if self._repository.problem is not None:
                raise InputError(self._repository.problem)
        except BaseException:
            self.close()
            raise

    @property
    def problems(self) -> dict[str, str]:
        """Reason by model (NAME) and version (NAME/VERSION) that is not loaded, in one sentence."""
        found = dict(self._repository.unreadable)
        for name, versions in self._repository.entries.items():
            found |= {f"{name}/{number}": entry.reason for number, entry in versions.items() if entry.model is None}
        return found

    def __getitem__(self, name: str) -> RepositoryModel:
        """Return a model.

        Raises:
            ArgumentError: `name` is not a string.
            UnknownModelError: there is no such model.
            ModelUnavailableError: none of its versions is loaded.
        """
        check(TEXT, name=name)
        self._find(name, None)
        return RepositoryModel(self, name)

    def __contains__(self, name: object) -> bool:
        return name in set(self)

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the models that can answer."""
        return (name for name, versions in self._repository.entries.items() if any(map(_is_loaded, versions.values())))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def close(self) -> None:
        """Unload the models."""
        if self._loop.is_closed():
            return
        self._run(self._repository.close())
        self._threads.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        models = ", ".join(f"{name} {list(self[name].versions)}" for name in self)
        return f"ModelRepository({str(self._settings.repository)!r}: {models})"

    def _find(self, name: str, version: int | None) -> Model:
        from normfold.service.errors import UnknownModelError

        check_optional(VERSION, version=version)
        try:
            return self._repository.find(name, None if version is None else str(version))
        except UnknownModelError as error:
            versions = self._repository.entries.get(name, {})
            there = ", ".join(map(str, versions or self._repository.entries)) or "none"
            raise UnknownModelError(name, error.version, f"there are {there}.") from None

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        future: Future[Result] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()


class RepositoryModel:
    """A model of a repository, with the same methods as `Client`.

    Attributes:
        name: of the model.
    """

    def __init__(self, repository: ModelRepository, name: str) -> None:
        self._of, self.name = repository, name

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that can answer, in ascending order."""
        entries = self._of._repository.entries.get(self.name, {})
        return tuple(number for number, entry in entries.items() if entry.model is not None)

    def manifest(self, version: int | None = None) -> Manifest:
        """Return the manifest of a version: inputs, outputs, labels, preprocessing.

        Args:
            version: the highest that is loaded without it.
        """
        return self._find(version).manifest

    def predict(self, rows: Any, *, version: int | None = None) -> list[Any]:
        """Predict from raw inputs, which are preprocessed as in training.

        Args:
            rows: one raw input per row: pixels (rows, channels, height, width) or (rows, height, width) in the data's
                original units, table rows (rows, columns), or a list of objects by column. A model without
                preprocessing takes tensors.
            version: of the model; the highest that is loaded without it.

        Returns:
            For each row a Prediction; where labels do not exclude each other a LabelsPrediction; of a regression a
            tuple of PredictedValue; of a model that gives a class to each pixel their numbers, (height, width), int64;
            of any other model the value of its one output, or the values of several by name.

        Raises:
            ArgumentError: an argument cannot be used.
            UnknownModelError, ModelUnavailableError: there is no such version, or it is not loaded.
            InvalidRequestError, RawInputError, UnsuitableModelError: the rows are not what the model takes.
            FailingTensorsError, RunError: the network failed, on these inputs alone or whatever the inputs.
            UnwritableOutputError: it gave NaN or infinity.

        Warns:
            UserWarning: a table's row has a value that the model knows nothing about, such as an unknown category.
        """
        predictions, notes = self._of._run(self._predict(instances_json(rows), version))
        warn_of_notes(notes)
        return predictions

    def classify(self, image: ImageInput, *, top: int = 5, version: int | None = None) -> list[ClassProbability]:
        """Classify one image of any size.

        Args:
            image: the bytes of a PNG or JPEG file, its path, or pixels: uint8, (height, width) or (height, width, 3).
            top: how many classes to return.
            version: of the model; the highest that is loaded without it.

        Returns:
            The most probable classes, the highest first.

        Raises:
            ArgumentError: an argument cannot be used: the image cannot be read, or the array is none.
            UnsuitableModelError: the model does not take images, or does not give classes.
            RawInputError: the bytes are no PNG or JPEG.
        """
        check(whole_number(1), top=top)
        return self._of._run(self._classify(image_bytes(image), top, version))

    def infer(
        self, inputs: Mapping[str, Any], *, outputs: Sequence[str] | None = None, version: int | None = None
    ) -> dict[str, Array]:
        """Run tensors through the model, without preprocessing.

        Args:
            inputs: name to array, in the datatype and shape that the model declares.
            outputs: names of those to return; all without it.
            version: of the model; the highest that is loaded without it.

        Returns:
            Output name to array.

        Raises:
            ArgumentError: an argument cannot be used.
            UnknownModelError, ModelUnavailableError: there is no such version, or it is not loaded.
            InvalidRequestError: an input or output is unknown or missing, or has another datatype or shape.
            FailingTensorsError: the network fails on these inputs, and not on those that it was warmed up with.
            RunError: the network failed.
        """
        check(TENSORS, inputs=inputs)
        check_optional(NAMES, outputs=outputs)
        return self._of._run(self._infer(inputs, outputs, version))

    def __repr__(self) -> str:
        return f"RepositoryModel({self.name!r}, versions {list(self.versions)})"

    def _find(self, version: int | None) -> Model:
        return self._of._find(self.name, version)

    async def _predict(self, body: bytes, version: int | None) -> tuple[list[Any], list[dict[str, Any]]]:
        """Return the predictions, and the notes about values that the model knows nothing about."""
        from normfold.service.codec.request import parse_object
        from normfold.service.codec.table_rows import RowNotes
        from normfold.service.inference.predict import predict, read_instances

        notes = RowNotes()
        with self._find(version) as model:
            instances = await self._of._threads.call(read_instances, parse_object(body), model.manifest, notes)
            return [to_prediction(one) for one in await predict(model, instances)], notes.notes

    async def _classify(self, image: bytes, top: int, version: int | None) -> list[ClassProbability]:
        from normfold.service.inference.predict import predict, rank_classes, read_image

        with self._find(version) as model:
            limit = self._of._settings.max_image_pixels
            instances = await self._of._threads.call(read_image, image, model, limit)
            [prediction] = await predict(model, instances)
            ranked = rank_classes(prediction, model.manifest.card.labels or (), top)
        return [ClassProbability(**one) for one in ranked]

    async def _infer(
        self, inputs: Mapping[str, Any], outputs: Sequence[str] | None, version: int | None
    ) -> dict[str, Array]:
        with self._find(version) as model:
            tensors = {name: to_tensor(name, array) for name, array in inputs.items()}
            _check_tensors(tensors, model.signature)
            return dict(await model.infer(tensors, _output_names(outputs, model.manifest)))


def _check_tensors(tensors: Mapping[str, Array], signature: ModelSignature) -> None:
    """Check that tensors are those that a model declares.

    Raises:
        InvalidRequestError: one is missing, unknown, or of another datatype or shape.
    """
    from normfold.service.codec.json_tensors import DTYPES
    from normfold.service.codec.signature import shape_matches
    from normfold.service.errors import InvalidRequestError

    declared = signature.inputs
    if not signature.required_inputs.keys() <= tensors.keys() <= declared.keys():
        raise InvalidRequestError(f"The model takes the inputs {sorted(declared)}, got {sorted(tensors)}.")
    for name, tensor in tensors.items():
        datatype, shape = declared[name].datatype, list(declared[name].shape)
        if tensor.dtype != DTYPES[datatype] or not shape_matches(tensor.shape, shape):
            got = f"{tensor.dtype} {list(tensor.shape)}"
            raise InvalidRequestError(f"Input {name!r} is {got}; the model takes {datatype} {shape}, -1 being free.")


def _output_names(outputs: Sequence[str] | None, manifest: Manifest) -> list[str]:
    from normfold.service.errors import InvalidRequestError

    known = [spec.name for spec in manifest.outputs]
    for name in outputs or ():
        if name not in known:
            raise InvalidRequestError(f"There is no output {name!r}; the model gives {known}.")
    return known if outputs is None else list(outputs)


def _is_loaded(entry: Any) -> bool:
    return entry.model is not None


def load_repository(repository: AnyPath | None = None, **settings: Any) -> ModelRepository:
    """Load the models of a repository into this process, for inference without HTTP.

    The models are checked, loaded, warmed up and batched as in `normfold serve`, also across calls from several
    threads. A version that cannot be loaded is listed in `problems`; the others are served.

    Example:
        >>> import normfold
        >>> import numpy
        >>> images = numpy.zeros((2, 8, 8))  # rows, height, width, in the units of the training data
        >>> with normfold.load_repository("model_repository") as repository:
        ...     print(repository["digits"].predict(images)[0].label)

    Args:
        repository: folder of models: NAME/VERSION/ with a bundle in each; NORMFOLD_REPOSITORY or `model_repository`
            without it.
        settings: fields of `normfold.service.settings.Settings`: `provider`, `version_policy` …

    Raises:
        RuntimePackageError: no ONNX Runtime is installed, or two are.
        ArgumentError: `repository` is not a path.
        SettingsError: a setting, or a variable of the environment that sets one, is wrong or unknown.
        InputError: the repository cannot be read, or none of its models can be loaded.
    """
    check_optional(PATH, repository=repository)
    from normfold.contract.onnxruntime_package import require_onnxruntime
    from normfold.service.settings import load_settings

    require_onnxruntime()
    return ModelRepository(load_settings(repository=optional_path(repository), **settings))
