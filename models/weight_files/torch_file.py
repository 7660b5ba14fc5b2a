"""Read a file of torch.save without running anything in it.

torch's reader with weights_only makes tensors and plain values, and rejects every class that it does not know: the
arguments of a script, a configuration, a callback. Here each of these classes is replaced by one that keeps what it is
given and does nothing, so that the tensors beside it can be read. What a file names is never imported.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from normfold.models.errors import WeightsError

MAX_CLASSES = 1000
"""Unknown classes in one file; a real one has a few dozen."""

_UNKNOWN = re.compile(r"Unsupported global: GLOBAL (\S+) was not an allowed global")
_PLAIN = frozenset({"object", "set", "frozenset", "slice", "range", "complex", "bytearray", "list", "dict", "tuple"})
"""Of Python's builtins; torch names them without their module. No file of weights needs another, such as exec."""

_HOSTILE = frozenset(
    {"io", "os", "posix", "nt", "sys", "subprocess", "shutil", "importlib", "runpy", "socket", "ctypes"}
)
"""Modules whose functions no file of weights needs. They would not be called, but a user should know of such a file."""

_NOT_A_MAPPING = re.compile(r"Can only SETITEMS? for dict")
_NOT_A_LIST = re.compile(r"Can only (append to|extend) lists")


class Inert:
    """What stands for an object of an unknown class: it keeps the object's state, and has no behaviour.

    Attributes:
        state: as it was saved; None if the object had none.
    """

    state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Make one, whatever the arguments are."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Ignore the arguments."""

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state


class _InertMapping(Inert):
    """Makes a mapping, for a class that is one."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


class _InertList(Inert):
    """Makes a list, for a class that is one."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return []


def read_torch_file(path: Path) -> Any:
    """Return the content of a file of torch.save, with `Inert` objects for those of unknown classes.

    Raises:
        WeightsError: the file cannot be read, is damaged, is a TorchScript archive, or holds a call of something that
            could run code.
    """
    if _is_torchscript(path):
        raise WeightsError(
            path,
            "is a TorchScript archive, a network with its code. Save its tensors for loading here: "
            "torch.save(torch.jit.load(FILE).state_dict(), OTHER).",
        )
    stands_for: dict[str, type[Inert]] = {"collections.defaultdict": _make("collections.defaultdict", _InertMapping)}
    while len(stands_for) <= MAX_CLASSES:
        try:
            return _load(path, stands_for)
        except OSError as error:
            raise WeightsError(path, f"cannot be read: {error.strerror or error}.") from None
        except pickle.UnpicklingError as error:
            if not _add(stands_for, str(error), path):
                raise WeightsError(
                    path, "is damaged, or holds what could run code; save network.state_dict() alone."
                ) from None
        except Exception as error:  # noqa: BLE001 - torch raises many kinds for a damaged file
            raise WeightsError(path, f"is damaged or not a torch file ({type(error).__name__}).") from None
    raise WeightsError(path, f"holds objects of over {MAX_CLASSES} classes; save network.state_dict() alone.")


def _load(path: Path, stands_for: dict[str, type[Inert]]) -> Any:
    allowed: list[Any] = [(kind, name) for name, kind in stands_for.items()]
    with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
        warnings.simplefilter("ignore")  # about the storages of old files, which load nevertheless
        return torch.load(path, map_location="cpu", weights_only=True)


def _add(stands_for: dict[str, type[Inert]], problem: str, path: Path) -> bool:
    """Add what stands for the class that an error names, or let it be a mapping or a list; false if it names none.

    Raises:
        WeightsError: it is a function that could run code.
    """
    if found := _UNKNOWN.search(problem):
        name = found[1]
        if (name not in _PLAIN) if "." not in name else name.partition(".")[0] in _HOSTILE:
            raise WeightsError(path, f"holds a call of Python's {name}, which could run code; it was not loaded.")
        if "." not in name:
            name = f"builtins.{name}"
        if name in stands_for:
            return False
        stands_for[name] = _make(name, Inert)
        return True
    base = _InertMapping if _NOT_A_MAPPING.search(problem) else _InertList if _NOT_A_LIST.search(problem) else None
    for name, kind in stands_for.items():
        if base is not None and repr(kind) in problem and kind.__base__ is Inert:
            stands_for[name] = _make(name, base)
            return True
    return False


def _make(name: str, base: type[Inert]) -> type[Inert]:
    """Return a class of its own for a name, since torch tells classes, and names them in errors, by identity."""
    module, _, qualified = name.rpartition(".")
    return type(qualified, (base,), {"__module__": module})


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)
