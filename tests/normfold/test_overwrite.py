"""Files that a command reads are not overwritten, whatever they are called, unless `force` is given."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import normfold
from normfold._shared.overwrite import require_other_file
from normfold.errors import ArgumentError
from tests.support.onnx_models import grey_classifier


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(grey_classifier(), tmp_path / "net.onnx")
    (tmp_path / "link.onnx").symlink_to("net.onnx")
    (tmp_path / "hard.onnx").hardlink_to(tmp_path / "net.onnx")
    (tmp_path / "folder").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    return Path("net.onnx")


SPELLINGS = ["net.onnx", "./net.onnx", "folder/net.onnx", "link.onnx", "hard.onnx", "folder/link.onnx"]


@pytest.mark.parametrize("target", SPELLINGS)
def test_target_that_is_the_source_is_refused_by_every_name(net: Path, target: str) -> None:
    with pytest.raises(ArgumentError, match=r"is read.* and would be overwritten: name another file.*`force`"):
        require_other_file(target, net, force=False)
    with pytest.raises(ArgumentError):
        require_other_file(target, "other.npz", None, net, force=False)
    require_other_file(target, net, force=True)


def test_target_that_is_another_file_is_accepted(net: Path) -> None:
    Path("copy.onnx").write_bytes(net.read_bytes())

    require_other_file("copy.onnx", net, None, force=False)
    require_other_file("missing.onnx", net, force=False)
    require_other_file("missing.onnx", "missing.onnx", force=False)


@pytest.mark.parametrize(
    "command",
    [normfold.fold, normfold.repair, normfold.quantize, lambda *paths: normfold.unfold(*paths, samples="s.npz")],
)
def test_command_that_writes_a_file_refuses_its_source(net: Path, command: object) -> None:
    before = net.read_bytes()

    with pytest.raises(ArgumentError, match="would be overwritten"):
        command(net, "link.onnx")  # type: ignore[operator]
    assert net.read_bytes() == before


@pytest.mark.slow
def test_fold_with_force_replaces_its_source(net: Path) -> None:
    normfold.fold(net, "link.onnx", force=True)

    assert Path("link.onnx").is_symlink()
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(net).graph.node}


def test_samples_are_not_overwritten(net: Path) -> None:
    Path("s.npz").write_bytes(b"samples")

    with pytest.raises(ArgumentError, match="'s.npz' is read, and would be overwritten"):
        normfold.quantize(net, "s.npz", samples="s.npz")
    assert Path("s.npz").read_bytes() == b"samples"
