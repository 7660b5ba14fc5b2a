"""The public names of the package `normfold`, for autodoc."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
import types
from typing import Any

import normfold
from scripts.docs_reference.markdown import UndocumentedError, described


def python_api() -> str:
    """Return a section for each public name of the package `normfold`, rendered by autodoc from its docstring."""
    functions, classes, errors = [], [], []
    for name in normfold.__all__:
        member = getattr(normfold, name)
        if inspect.isclass(member) and issubclass(member, Exception):
            continue  # in the tree of errors
        if name == "errors":
            errors.append(_errors_tree(member))
        elif inspect.isclass(member):
            classes.append(_api_section(name, "autoclass", member))
        else:
            functions.append(_api_section(name, "autofunction", member))
    return "\n\n".join(("## Functions", *functions, "## Classes", *classes, "## Errors", *errors))


def _api_section(name: str, directive: str, member: Any) -> str:
    """Return the heading of a public name, and the directive that renders it."""
    if inspect.ismodule(member):  # normfold.export is a package that can be called
        member = inspect.unwrap(importlib.import_module(f"normfold._{name}").__dict__[name])
    described(inspect.getdoc(member), f"normfold.{name}")
    if inspect.isclass(member):
        for attribute, value in vars(member).items():
            if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                described(inspect.getdoc(value), f"normfold.{name}.{attribute}")
    options = "\n   :members:" if inspect.isclass(member) else ""
    target = f"{member.__module__}.{member.__qualname__}"
    return f"### {name}\n\n```{{eval-rst}}\n.. {directive}:: {target}{options}\n```"


def _errors_tree(module: types.ModuleType) -> str:
    """Return the docstring of `normfold.errors`, which draws the tree of all errors.

    Raises:
        UndocumentedError: an error of the module, or of the package itself, is not in the tree.
    """
    text = described(inspect.getdoc(module), module.__name__)
    for name in (*getattr(module, "__all__", ()), *normfold.__all__):
        member = getattr(module, name, None)
        if inspect.isclass(member) and issubclass(member, Exception) and not re.search(rf"\b{name}\b", text):
            raise UndocumentedError(f"normfold.errors.{name} is not in the tree of errors")
    summary, _, tree = text.partition("\n    ")
    where = f"All are in `{module.__name__}`, the roots of the tree in `normfold` too."
    return f"{summary} {where}\n\n```text\n{textwrap.dedent('    ' + tree)}\n```"
