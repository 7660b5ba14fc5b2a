"""The models of a Triton repository on disk.

    NAME/config.pbtxt               its configuration; Triton does without where the model file says enough
    NAME/LABELS                     names of classes, one a line, named by the configuration
    NAME/VERSION/model.onnx         the network, or a folder with a model.onnx and the files of its weights

Source: github.com/triton-inference-server/server, docs/user_guide/model_repository.md and model_configuration.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from normfold.contract.bundle import DIGITS, parse_version
from normfold.contract.manifest import MAX_VERSION, MODEL_NAME
from normfold.export.errors import TritonError
from normfold.export.triton.config_file import CONFIG_NAME, TritonConfig, read_config

ONNX_BACKEND = "onnxruntime"

_BACKENDS = {"onnxruntime_onnx": ONNX_BACKEND}
"""Backend by platform, the older field, where their names differ."""


@dataclass(frozen=True, eq=False)
class TritonModel:
    """A model of a Triton repository whose networks are ONNX files.

    Attributes:
        name: of its folder.
        folder: NAME/.
        config: what config.pbtxt says; nothing where there is none.
        files: the ONNX file by version, ascending.
    """

    name: str
    folder: Path
    config: TritonConfig
    files: dict[int, Path]


class SkippedModelError(TritonError):
    """The model is one that a bundle cannot hold, by its kind."""


def find_model_folders(repository: Path) -> dict[str, Path]:
    """Return the folders of models by name; hidden folders are none.

    Raises:
        TritonError: the repository is not a folder that can be read, or is itself the folder of a model.
    """
    try:
        found = sorted(path for path in repository.iterdir() if path.is_dir() and not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        raise TritonError(f"There is no folder {str(repository)!r}; name Triton's model repository.") from None
    except OSError as error:
        raise TritonError(f"Cannot read {str(repository)!r}: {error.strerror}.") from None
    if (repository / CONFIG_NAME).exists() or any(parse_version(path.name) is not None for path in found):
        raise TritonError(f"{str(repository)!r} is the folder of one model; did you mean its parent?")
    return {path.name: path for path in found}


def require_inside(file_name: str, what: str) -> None:
    """Check that a name of a file, which a configuration gives, does not lead out of its folder.

    Raises:
        TritonError: it does.
    """
    if Path(file_name).is_absolute() or ".." in Path(file_name).parts:
        raise TritonError(f"Its {what} {file_name!r} lies outside its folder.")


def read_model_folder(folder: Path) -> TritonModel:
    """Read the configuration of a model, and find its files.

    Raises:
        SkippedModelError: it is not an ONNX model, or needs what is not built.
        TritonError: its configuration or a version cannot be used.
    """
    has_config = (folder / CONFIG_NAME).exists()
    config = read_config(folder / CONFIG_NAME) if has_config else TritonConfig()
    message = config.message
    versions = _version_folders(folder)
    if not has_config and not versions:
        raise SkippedModelError(f"It has neither a {CONFIG_NAME!r} nor a version.")
    file_name = message.default_model_filename or MODEL_NAME
    backend = message.backend or _BACKENDS.get(message.platform, message.platform)
    _check_kind(message.WhichOneof("scheduling_choice"), backend)
    if not backend and not any((path / file_name).exists() for path in versions.values()):
        raise SkippedModelError(f"It names no backend, and no version of it holds {file_name!r}.")
    if message.name not in ("", folder.name):
        raise TritonError(f"Its {CONFIG_NAME!r} is of the model {message.name!r}, but lies in {folder.name!r}.")
    if message.max_batch_size < 0:
        raise TritonError(f"Its max_batch_size is {message.max_batch_size}.")
    if not versions:
        raise TritonError("It has no version: no folder whose name is a number from 1.")
    files = {number: _model_file(path, file_name) for number, path in versions.items()}
    return TritonModel(folder.name, folder, config, files)


def _check_kind(scheduling: str | None, backend: str) -> None:
    if scheduling == "ensemble_scheduling" or backend == "ensemble":
        raise SkippedModelError("It is an ensemble of other models, which Normfold does not have.")
    if backend not in ("", ONNX_BACKEND):
        raise SkippedModelError(f"Its backend is {backend!r}; only ONNX models ({ONNX_BACKEND!r}) are imported.")
    if scheduling == "sequence_batching":
        raise SkippedModelError("It keeps state over the requests of a sequence, which Normfold does not.")


def _version_folders(folder: Path) -> dict[int, Path]:
    """Return the folders of versions, ascending. Triton ignores other names, and numbers that begin with a zero."""
    try:
        found = [path for path in folder.iterdir() if DIGITS.fullmatch(path.name) and path.is_dir()]
    except OSError as error:
        raise TritonError(f"Cannot read {str(folder)!r}: {error.strerror}.") from None
    versions = {}
    for path in found:
        number = parse_version(path.name)
        if number is not None:
            versions[number] = path
        elif not path.name.startswith("0"):
            raise TritonError(f"It has a version {path.name}; versions go from 1 to {MAX_VERSION}.")
    return dict(sorted(versions.items()))


def _model_file(version: Path, file_name: str) -> Path:
    """Return the ONNX file of a version; in a folder of that name, the model.onnx inside.

    Raises:
        TritonError: it is missing, or lies elsewhere.
    """
    path = version / file_name
    require_inside(file_name, "model file")
    if path.is_dir():
        path = path / MODEL_NAME
    if not path.is_file():
        raise TritonError(f"Version {version.name} has no file {str(path.relative_to(version))!r}.")
    return path
