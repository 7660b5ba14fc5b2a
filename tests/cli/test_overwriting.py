"""A command that writes a file asks before it overwrites one on a terminal; elsewhere --force is needed."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import onnx
import pytest

from tests.support.command import RunCommand
from tests.support.onnx_models import grey_classifier

COMMANDS = {
    "fold": ("fold", "net.onnx", "out"),
    "fold --report": ("fold", "net.onnx", "new.onnx", "--report", "out"),
    "repair": ("repair", "net.onnx", "out"),
    "unfold": ("unfold", "net.onnx", "out", "--samples", "none.npz"),
    "quantize": ("quantize", "net.onnx", "out", "--precision", "float16"),
    "inspect --html": ("inspect", "net.onnx", "--no-verify", "--html", "out"),
    "audit --html": ("audit", "net.onnx", "--html", "out"),
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def net(normfold: RunCommand) -> RunCommand:
    """Give the command, in a folder with a model and a file in the way."""
    onnx.save(grey_classifier(), "net.onnx")
    Path("out").write_text("mine")
    return normfold


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_file_in_the_way_is_kept_without_a_terminal(
    net: RunCommand, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, out, err = net(*arguments)
    assert (code, out) == (2, "")
    assert err == "error: 'out' exists already; name another file to write, or give --force.\n"
    assert Path("out").read_text() == "mine"


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_file_in_the_way_is_kept_where_the_answer_is_no(
    net: RunCommand, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("\n"))
    code, _, err = net(*arguments)
    assert code == 1
    assert err == "'out' exists already. Write over it? [y/N] Nothing was written.\n"
    assert Path("out").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fold", "fold --report", "repair", "quantize", "inspect --html", "audit --html"])
@pytest.mark.parametrize("by", ["answer", "option"])
def test_file_in_the_way_is_replaced_if_the_user_says_so(
    net: RunCommand, monkeypatch: pytest.MonkeyPatch, name: str, by: str
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("y\n") if by == "answer" else io.StringIO())
    code, _, err = net(*COMMANDS[name], *(("--force",) if by == "option" else ()))
    assert code == 0, err
    assert Path("out").read_bytes() != b"mine"
