"""Reading and writing ONNX files."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from normfold.contract.atomic_write import atomic_path, temporary_folder
from normfold.contract.errors import WriteError
from normfold.export.errors import ModelFileError
from normfold.export.files.fold_file import fold_file
from normfold.export.onnx_io.model_file import load_model, save_model
from tests.support.onnx_models import model


def small() -> onnx.ModelProto:
    weight = np.arange(400, dtype=np.float32).reshape(4, 100)
    return model([helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": ["n", 4]}, ["y"], {"w": weight}, dtype=np.float32)


def save(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_written_model_is_the_one_that_was_read(tmp_path: Path) -> None:
    proto = small()
    proto.producer_name = "somebody"
    proto.metadata_props.add(key="licence", value="free")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([b"a", b"bc"], object), "text"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(3.5, np.float32), "scalar"))
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((0, 4), np.int64), "empty"))
    proto.graph.node.append(helper.make_node("Identity", ["text"], ["t"]))

    save_model(load_model(save(proto, tmp_path / "a.onnx")), tmp_path / "b.onnx")

    written = onnx.load(tmp_path / "b.onnx")
    for tensor in (*written.graph.initializer, *proto.graph.initializer):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    for proto_ in (written, proto):
        del proto_.graph.value_info[:]
    assert written == proto


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    source = save(small(), tmp_path / "a.onnx")

    for name in ("b", "c"):
        save_model(load_model(source), tmp_path / f"{name}.onnx")

    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "c.onnx").read_bytes()


def test_external_data_stays_external(tmp_path: Path) -> None:
    onnx.save_model(small(), tmp_path / "a.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)

    with atomic_path(tmp_path / "b.onnx") as path:
        save_model(load_model(tmp_path / "a.onnx"), path)

    assert (tmp_path / "b.onnx.data").stat().st_size >= 1600
    (tmp_path / "weights.bin").unlink()
    written = onnx.load(tmp_path / "b.onnx")
    np.testing.assert_array_equal(
        numpy_helper.to_array(written.graph.initializer[0]), numpy_helper.to_array(small().graph.initializer[0])
    )


def break_cycle(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Relu", ["b"], ["a"]))
    proto.graph.node.append(helper.make_node("Relu", ["a"], ["b"]))


def break_name(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[1] = "nobody"


def break_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].op_type = "Gemmm"


def break_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 999


def break_old_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 6
    proto.graph.node[0].op_type = "Gemmm"


def break_weight(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "w"))


def break_graph(proto: onnx.ModelProto) -> None:
    proto.ClearField("graph")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (break_cycle, "not a valid ONNX graph"),
        (break_name, "'?nobody'?"),
        (break_operator, "Gemmm"),
        (break_opset, "has opset 999; opsets 1 to"),
        (break_old_opset, "has opset 6, and onnx's version converter cannot convert it to opset 7: .*Gemmm"),
        (break_weight, "two weights that are called 'w'"),
        (break_graph, "holds no graph"),
    ],
)
def test_an_invalid_model_is_named_with_its_fault(
    tmp_path: Path, break_it: Callable[[onnx.ModelProto], None], says: str
) -> None:
    proto = small()
    break_it(proto)

    with pytest.raises(ModelFileError, match=says) as caught:
        load_model(save(proto, tmp_path / "bad.onnx"))
    assert str(caught.value).startswith(repr(str(tmp_path / "bad.onnx")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"hello, world", small().SerializeToString()[:-20]])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)

    with pytest.raises(ModelFileError, match="not an ONNX model"):
        load_model(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read: No such file or directory"):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="cannot be read: Is a directory"):
        load_model(tmp_path)


def test_missing_and_short_external_data_are_named(tmp_path: Path) -> None:
    onnx.save_model(small(), tmp_path / "a.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(ModelFileError, match="keeps the weight 'w' in 'weights.bin', which is cut short"):
        load_model(tmp_path / "a.onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelFileError, match="keeps the weight 'w' in 'weights.bin', which is missing"):
        load_model(tmp_path / "a.onnx")


def test_the_weights_of_the_source_are_never_overwritten(tmp_path: Path) -> None:
    onnx.save_model(
        small(), tmp_path / "src.onnx", save_as_external_data=True, location="out.onnx.data", size_threshold=0
    )
    before = (tmp_path / "out.onnx.data").read_bytes()

    with pytest.raises(ModelFileError, match="would overwrite the weights of"):
        fold_file(tmp_path / "src.onnx", tmp_path / "out.onnx")

    assert (tmp_path / "out.onnx.data").read_bytes() == before


def test_the_file_of_the_weights_of_the_source_is_not_the_target(tmp_path: Path) -> None:
    onnx.save_model(small(), tmp_path / "src.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    before = (tmp_path / "w.bin").read_bytes()

    with pytest.raises(ModelFileError, match="w.bin' would overwrite the weights of"):
        fold_file(tmp_path / "src.onnx", tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == before


def test_a_model_with_external_data_may_be_folded_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx.save_model(small(), path, save_as_external_data=True, location="a.onnx.data", size_threshold=0)

    fold_file(path, path)

    np.testing.assert_array_equal(
        numpy_helper.to_array(onnx.load(path).graph.initializer[0]), numpy_helper.to_array(small().graph.initializer[0])
    )


def test_a_weight_whose_content_does_not_fit_its_shape_is_named(tmp_path: Path) -> None:
    proto = small()
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]

    with pytest.raises(ModelFileError, match="holds a weight 'w' whose content does not fit its shape"):
        load_model(save(proto, tmp_path / "bad.onnx"))


@pytest.mark.parametrize(
    ("key", "value"), [("offset", "-8"), ("offset", "abc"), ("length", "-1"), ("location", "../w")]
)
def test_external_data_in_a_wrong_place_is_named(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "a.onnx"
    onnx.save_model(small(), path, save_as_external_data=True, location="w", size_threshold=0)
    proto = onnx.load(path, load_external_data=False)
    entries = {entry.key: entry.value for entry in proto.graph.initializer[0].external_data} | {key: value}
    del proto.graph.initializer[0].external_data[:]
    for name, text in entries.items():
        proto.graph.initializer[0].external_data.add(key=name, value=text)

    with pytest.raises(ModelFileError, match="the weight 'w'"):
        load_model(save(proto, path))


def test_a_file_is_taken_for_what_it_is_not_for_its_ending(tmp_path: Path) -> None:
    path = save(small(), tmp_path / "model.json")
    assert len(load_model(path).graph) == 1

    path.write_text("{}")
    with pytest.raises(ModelFileError, match="not an ONNX model"):
        load_model(path)


def test_atomic_path_follows_a_link_and_rejects_a_device(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "there" / "real.txt")

    with atomic_path(link) as path:
        path.write_text("new")

    assert link.is_symlink()
    assert (tmp_path / "there" / "real.txt").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WriteError, match="it is not a regular file"), atomic_path(tmp_path / "pipe"):
        pass


def test_atomic_path_puts_a_file_in_place_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")

    with pytest.raises(UnicodeEncodeError), atomic_path(target) as path:
        path.write_text("half, then \N{SNOWMAN}", encoding="ascii", errors="strict")
    assert [file.name for file in tmp_path.iterdir()] == ["out.txt"]
    assert target.read_text() == "old"

    with atomic_path(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["out.txt"]


def test_a_full_disk_is_named_by_the_path_that_the_user_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WriteError, match=re.escape(f"Cannot write {str(tmp_path / 'out')!r}: no space left")):  # noqa: SIM117
        with atomic_path(tmp_path / "out") as outer, atomic_path(outer):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(WriteError) as raised:  # noqa: SIM117
        with temporary_folder(), temporary_folder() as folder, atomic_path(folder / "model.onnx"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(raised.value) == (
        f"Cannot write {str(tmp_path)!r}: no space left on device; TMPDIR names another folder for temporary files."
    )
    with pytest.raises(WriteError, match="'other'"), temporary_folder():
        raise WriteError(Path("other"), "disk full")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    target = tmp_path / "none" / "out.onnx"
    with pytest.raises(WriteError, match="no such file or directory") as caught, atomic_path(target):
        pass
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("channels", [4, 16])  # of the larger one a weight goes to a file of its own
@pytest.mark.parametrize("is_attribute", [False, True])
def test_external_data_inside_a_body_is_written_anew(channels: int, is_attribute: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def body(name: str) -> onnx.GraphProto:
        weight = rng.normal(size=(channels, channels)).astype(np.float32)
        tensor = numpy_helper.from_array(weight, f"{name}.weight")
        made = [helper.make_node("Constant", [], [tensor.name], value=tensor)] if is_attribute else []
        product = helper.make_node("MatMul", ["x", tensor.name], [f"{name}.y"])
        output = helper.make_tensor_value_info(f"{name}.y", onnx.TensorProto.FLOAT, None)
        return helper.make_graph([*made, product], name, [], [output], [] if is_attribute else [tensor])

    choice = helper.make_node("If", ["which"], ["y"], then_branch=body("one"), else_branch=body("other"))
    graph = helper.make_graph(
        [choice],
        "graph",
        [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", channels]),
            helper.make_tensor_value_info("which", onnx.TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", channels])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inputs = {"x": rng.normal(size=(3, channels)).astype(np.float32), "which": np.array(True)}
    (wanted,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, inputs)
    source = tmp_path / "source"
    source.mkdir()
    onnx.save_model(
        proto,
        source / "a.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
        convert_attribute=True,
    )

    save_model(load_model(source / "a.onnx"), tmp_path / "b.onnx")

    (source / "weights.bin").unlink()
    (got,) = onnxruntime.InferenceSession(tmp_path / "b.onnx").run(None, inputs)
    np.testing.assert_array_equal(got, wanted)
    assert (tmp_path / "b.onnx.data").exists() == (channels == 16 and not is_attribute)
