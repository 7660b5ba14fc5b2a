"""Modules and functions of the user's own code, by `module` and `module:function`. Importing them runs their code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normfold.contract.errors import InputError, first_line
from normfold.models.errors import FunctionError


def import_module(name: str, error_type: type[InputError]) -> Any:
    """Import a module; the current folder is searched last.

    Args:
        name: of the module.
        error_type: of the error.

    Raises:
        InputError: of `error_type`: there is no such module, or it cannot be imported.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that nothing in it can hide an installed package
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if f"{name}.".startswith(f"{missing}."):  # the module itself, or a package that it would be in
            raise error_type(f"There is no module {name!r}, neither installed nor in the current folder.") from None
        raise error_type(f"Module {name!r} imports {missing!r}, which is not installed.") from None
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        reason = first_line(error, default="no message")
        raise error_type(f"Module {name!r} cannot be imported: {type(error).__name__}: {reason}") from error


def find_function(name: str, what: str) -> Callable[..., Any]:
    """Return a function of the user's own code.

    Args:
        name: module:function.
        what: the argument that names it, for the error.

    Raises:
        FunctionError: the name has another form, or there is no such function.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise FunctionError(f"`{what}` {name!r} is not of the form module:function.")
    module = import_module(module_name, FunctionError)
    function = getattr(module, attribute, None)
    if not callable(function):
        place = getattr(module, "__file__", None) or "without a file"
        raise FunctionError(f"Module {module_name!r} ({place}) has no function {attribute!r}.")
    found: Callable[..., Any] = function
    return found
