"""The tree of errors: what is drawn is what is there."""

from __future__ import annotations

import builtins
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from normfold import contract, errors
from normfold.cli.option_names import OPTIONS
from normfold.errors import ArgumentError, NormfoldError
from tests.support.paths import ROOT

SOURCES = (
    *(
        module.name.removeprefix("normfold.")
        for module in pkgutil.walk_packages(contract.__path__, "normfold.contract.")
    ),
    *("export.errors", "models.errors", "service.errors"),
)

OF_HTTP = {
    *("AmbiguousRequestError", "ConnectionLimitError", "HeadersTooLargeError", "MalformedRequestError"),
    *("CallLimitError", "ContentEncodingError", "ReceiveTimeoutError", "StoppingError"),
    *("UnknownPathError", "BodyTooLargeError", "UnauthenticatedError", "ScopeError", "RateError", "ControlError"),
    *("ForeignOriginError", "ForeignHostError"),
    *("BodyBudgetError", "ResponseBudgetError", "ClientDisconnectedError", "NoSamplesError"),
    *("RolloutError", "NoRolloutError"),
}
"""Errors that end as an answer of HTTP: a client sees their status and sentence in a ResponseError."""

OF_COMMANDS = {
    *("AddressError", "KeysUnwritableError", "StateDirError", "BundleLoadError"),
    *("TlsError", "UnixSocketError", "SocketActivationError"),
}
"""Errors that end a command, or become the reason of a ModelUnavailableError: no public function raises them."""


def drawn() -> Iterator[tuple[str, str | None]]:
    """Yield each error of the docstring's tree with the one that it hangs on."""
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.fullmatch(r"    ([│├└─ ]*)(\w+Error)\b.*", line):
            depth = len(found[1]) // 4
            parents[depth:] = [found[2]]
            yield found[2], parents[depth - 1] if depth else None


DRAWN = dict(drawn())


def test_tree_is_read() -> None:
    assert DRAWN["NormfoldError"] is None
    assert DRAWN["SampleCountError"] == "AdaptationError"
    assert len(DRAWN) > 50


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_error_hangs_where_it_is_drawn(name: str) -> None:
    kind, parent = getattr(errors, name), DRAWN[name]
    assert name in dir(errors)
    assert issubclass(kind, NormfoldError)
    if parent is not None:
        assert getattr(errors, parent) in kind.__bases__


@pytest.mark.parametrize("source", SOURCES)
def test_every_error_of_a_package_is_drawn(source: str) -> None:
    module = importlib.import_module(f"normfold.{source}")
    own = {
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, NormfoldError) and value.__module__ == module.__name__
    }
    assert own - OF_HTTP - OF_COMMANDS <= DRAWN.keys()
    for name in own & DRAWN.keys():
        assert getattr(errors, name) is getattr(module, name), f"two errors are called {name}"


def test_every_error_that_is_not_drawn_exists() -> None:
    modules = [importlib.import_module(f"normfold.{source}") for source in SOURCES]
    assert all(any(hasattr(module, name) for module in modules) for name in OF_HTTP | OF_COMMANDS)


@pytest.mark.parametrize("path", sorted((ROOT / "normfold").glob("*.py")), ids=lambda path: path.stem)
def test_documented_errors_exist(path: Path) -> None:
    """The lines of `Raises:` begin with names of errors, joined by commas."""
    lines = re.findall(r"^ +((?:\w+Error, )*\w+Error): ", path.read_text("utf-8"), re.MULTILINE)
    names = {name for line in lines for name in line.split(", ")}
    assert not {name for name in names if not hasattr(errors, name) and not hasattr(builtins, name)}


def test_argument_error_names_options_on_the_command_line() -> None:
    error = ArgumentError("`keep_statistics` and `input_shape` go with something else than `data`.")
    assert error.on_command_line(OPTIONS) == "--keep-statistics and --input go with something else than --data."


def test_unknown_error_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'NoSuchError'"):
        _ = errors.NoSuchError
