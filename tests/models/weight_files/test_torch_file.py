"""Files of torch.save with more than tensors: read without running what is in them."""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import math
import os
import pathlib
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from normfold.models.errors import WeightsError
from normfold.models.weight_files.torch_file import Inert, read_torch_file
from tests.support.paths import ROOT

ONES = torch.ones(2)


class Config(dict[str, Any]):
    """As configurations that are mappings with attributes."""


class History(list[float]):
    """As lists of a class of their own."""


class Settings:
    """As most objects: pickled by their state."""

    def __init__(self) -> None:
        self.lr = 0.1


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module of a training script, which the reader does not have."""
    module = types.ModuleType("training_script")
    for kind in (Config, History, Settings):
        monkeypatch.setattr(kind, "__module__", module.__name__)
        setattr(module, kind.__name__, kind)
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_file_with_objects_of_a_script_gives_its_tensors(
    tmp_path: Path, script: types.ModuleType, zipped: bool
) -> None:
    config = Config(lr=0.1)
    config.note = "kept"  # type: ignore[attr-defined]  # beside its items
    content = {
        "state_dict": {"w": ONES},
        "args": argparse.Namespace(lr=0.1),
        "config": config,
        "history": History([1.0]),
        "settings": Settings(),
        "counts": collections.defaultdict(list, a=[1]),
        "path": pathlib.PurePosixPath("a"),
        "schedule": functools.partial(math.sin, 1),
    }
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    del sys.modules[script.__name__]
    found = read_torch_file(tmp_path / "w.pt")
    assert torch.equal(found["state_dict"]["w"], ONES)
    assert isinstance(found["args"], Inert)
    assert found["args"].state == {"lr": 0.1}
    assert found["config"] == {"lr": 0.1}
    assert found["history"] == [1.0]
    assert isinstance(found["settings"], Inert)
    assert script.__name__ not in sys.modules


@pytest.mark.parametrize("function", [exec, eval, getattr, open, __import__, compile, os.system, os.remove])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_file_with_a_call_that_could_run_code_is_rejected(tmp_path: Path, function: Any, zipped: bool) -> None:
    written = tmp_path / "written"
    trap = Call(function, f"open({str(written)!r}, 'w').write('x')")
    torch.save({"state_dict": {"w": ONES}, "x": trap}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="could run code"):
        read_torch_file(tmp_path / "w.pt")
    assert not written.exists()


def test_call_of_another_function_is_not_made(tmp_path: Path) -> None:
    written = tmp_path / "written"
    trap = Call(pathlib.Path.write_text, pathlib.PurePosixPath(written), "x")
    torch.save({"w": ONES, "x": Call(collections.Counter, "a"), "y": Call(os.path.join, "a")}, tmp_path / "w.pt")
    assert set(read_torch_file(tmp_path / "w.pt")) == {"w", "x", "y"}
    torch.save({"w": ONES, "x": Call(nn.Linear, 2, 2), "y": trap}, tmp_path / "w.pt")
    with contextlib.suppress(WeightsError):
        read_torch_file(tmp_path / "w.pt")
    assert not written.exists()


@pytest.mark.slow
def test_torchscript_archive_is_named_with_the_way_out(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # such files are around nevertheless
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"is a TorchScript archive.*torch\.jit\.load\(FILE\)\.state_dict"):
        read_torch_file(tmp_path / "w.pt")


def test_no_file_is_read_with_its_code() -> None:
    """weights_only=False would run what a file holds."""
    folders = ("cli", "contract", "display", "export", "models", "normfold", "scripts", "service")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert files
    assert not [path for path in files if "weights_only=False" in path.read_text().replace(" ", "")]
