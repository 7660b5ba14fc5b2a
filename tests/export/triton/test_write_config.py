"""config.pbtxt of a bundle: as Triton's own description of it reads it, and as an import reads it back."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from google.protobuf import text_format
from onnx import helper
from tritonclient.grpc import model_config_pb2 as triton

from normfold.contract.manifest import TensorSpec, read_manifest
from normfold.contract.source_card import SourceCard
from normfold.export.errors import TritonError
from normfold.export.repository.versions import find_model
from normfold.export.triton.import_repository import import_repository
from normfold.export.triton.write_config import WrittenConfig, check_target, prepare_config
from tests.support.bundles import LABELS, BundleWriter, TritonWriter, file_contents

Shape = tuple[int, ...]


@pytest.fixture
def bundles(tmp_path: Path) -> BundleWriter:
    return BundleWriter(tmp_path / "models")


def write_identity(
    bundles: BundleWriter, shape: Shape, version: int = 1, datatype: str = "FP32", name: str = "net", **fields: Any
) -> Path:
    specs = [TensorSpec(name=each, datatype=datatype, shape=shape) for each in ("x", "y")]
    return bundles.write(name, version, [helper.make_node("Identity", ["x"], ["y"])], specs[:1], specs[1:], **fields)


def write_config(bundles: BundleWriter, name: str = "net", policy: str = "all", rows: int = 64) -> WrittenConfig:
    return prepare_config(find_model(bundles.root, name), policy, rows).write()


def read_as_triton(path: Path) -> triton.ModelConfig:
    return text_format.Parse(path.read_text(), triton.ModelConfig())


def triton_accepts(config: triton.ModelConfig, network: Path) -> bool:
    """Return whether Triton's ONNX Runtime backend takes a configuration for a network.

    Source: onnxruntime_backend, CompareDimsSupported: rank and every size are those of the session, outputs exactly,
    inputs where the session's size is fixed; with max_batch_size over 0, the first axis is free and not in `dims`.
    """
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    for tensors, infos, is_exact in (
        (config.input, session.get_inputs(), 0),
        (config.output, session.get_outputs(), 1),
    ):
        shapes = {info.name: [size if isinstance(size, int) else -1 for size in info.shape] for info in infos}
        if sorted(shapes) != sorted(one.name for one in tensors):
            return False
        for one in tensors:
            own = [*one.reshape.shape] if one.HasField("reshape") else [*one.dims]
            full = [-1, *own] if config.max_batch_size > 0 else own
            shape = shapes[one.name]
            if not one.dims or any(size < 1 and size != -1 for size in one.dims) or len(full) != len(shape):
                return False
            if any((is_exact or have != -1) and have != want for have, want in zip(shape, full, strict=True)):
                return False
    return True


@pytest.mark.parametrize(
    ("shape", "batchable", "rows", "dims"),
    [
        ((-1, 4, 5), True, 64, [4, 5]),
        ((-1, -1), True, 64, [-1]),
        ((-1, 4, 5), False, 0, [-1, 4, 5]),
        ((2, 4), True, 0, [2, 4]),
        ((-1,), True, 0, [-1]),
    ],
)
def test_config_states_shapes_as_triton_compares_them(
    bundles: BundleWriter, shape: Shape, batchable: bool, rows: int, dims: Sequence[int]
) -> None:
    folder = write_identity(bundles, shape, batchable=batchable)

    written = write_config(bundles)

    config = read_as_triton(written.path)
    assert triton_accepts(config, folder / "model.onnx")
    assert (config.name, config.backend, config.max_batch_size) == ("net", "onnxruntime", rows)
    assert [list(one.dims) for one in (*config.input, *config.output)] == [list(dims)] * 2
    assert config.HasField("dynamic_batching") is (rows > 0)
    assert not any(one.HasField("reshape") for one in (*config.input, *config.output))
    assert any("runs every request alone" in note for note in written.notes) is (batchable and not rows)


def test_wrong_dims_are_found_by_the_rule_of_triton(bundles: BundleWriter) -> None:
    folder = write_identity(bundles, (-1, 4))
    config = read_as_triton(write_config(bundles).path)
    for tensors in (config.input, config.output):
        wrong = triton.ModelConfig.FromString(config.SerializeToString())
        (wrong.input if tensors is config.input else wrong.output)[0].dims[0] = 5
        assert not triton_accepts(wrong, folder / "model.onnx")


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT64", "FP16", "FP64", "BYTES"])
def test_config_states_datatypes(bundles: BundleWriter, datatype: str) -> None:
    write_identity(bundles, (-1, 2), datatype=datatype)
    named = triton.DataType.Name(read_as_triton(write_config(bundles).path).input[0].data_type)
    assert named == {"BYTES": "TYPE_STRING"}.get(datatype, f"TYPE_{datatype}")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("all", {"all": {}}),
        ("latest:2", {"latest": {"num_versions": 2}}),
        ("1,3,9", {"specific": {"versions": [1, 3]}}),
    ],
)
def test_config_has_the_version_policy_of_the_service(
    bundles: BundleWriter, policy: str, expected: dict[str, Any]
) -> None:
    for version in (1, 2, 3):
        write_identity(bundles, (-1, 2), version)
    config = read_as_triton(write_config(bundles, policy=policy, rows=8).path)
    assert config.version_policy == triton.ModelVersionPolicy(**expected)
    assert config.max_batch_size == 8


def test_config_of_versions_that_differ_needs_a_policy(bundles: BundleWriter) -> None:
    write_identity(bundles, (-1, 2), 1)
    write_identity(bundles, (-1, 3), 2)
    with pytest.raises(TritonError, match=r"Versions 1 and 2 of 'net' differ in their inputs.*--version-policy"):
        write_config(bundles)
    assert read_as_triton(write_config(bundles, policy="latest:1").path).input[0].dims == [3]


@pytest.mark.parametrize(
    ("shape", "policy", "says"),
    [
        ((-1, 0), "all", r"'x' of 'net' has the shape \[-1, 0\]; Triton has no scalars, and no size 0"),
        ((), "all", r"'x' of 'net' has the shape \[\]; Triton has no scalars"),
        ((-1, 2), "7", "selects no version of 'net'"),
        ((-1, 2), "newest", "is not all, latest:N or numbers"),
    ],
)
def test_config_that_triton_could_not_use_is_not_written(
    bundles: BundleWriter, shape: Shape, policy: str, says: str
) -> None:
    folder = write_identity(bundles, shape, batchable=bool(shape))
    with pytest.raises(TritonError, match=says):
        write_config(bundles, policy=policy)
    assert not (folder.parent / "config.pbtxt").exists()


def test_config_leaves_a_damaged_version_out(bundles: BundleWriter) -> None:
    write_identity(bundles, (-1, 2), 1)
    (write_identity(bundles, (-1, 3), 2) / "model.onnx").unlink()
    assert read_as_triton(write_config(bundles).path).input[0].dims == [2]


@pytest.mark.parametrize(
    ("labels", "shape", "is_written"),
    [
        (("a", "größer"), (-1, 2), True),
        (("a", "b"), (-1, 3), False),
        (("a", "b\nc"), (-1, 2), False),
        (("a", ""), (-1, 2), False),
        (None, (-1, 2), False),
    ],
)
def test_config_names_a_label_file_where_labels_fit(
    bundles: BundleWriter, labels: tuple[str, ...] | None, shape: Shape, is_written: bool
) -> None:
    folder = write_identity(bundles, shape, card=SourceCard(labels=labels))
    written = write_config(bundles)
    (output,) = read_as_triton(written.path).output
    assert output.label_filename == ("labels.txt" if is_written else "")
    assert (folder.parent / "labels.txt").exists() is is_written
    assert any("labels are left out" in note for note in written.notes) is (labels is not None and not is_written)
    if is_written:
        assert (folder.parent / "labels.txt").read_text() == "a\ngrößer\n"


def test_config_of_another_hand_stays(bundles: BundleWriter) -> None:
    folder = write_identity(bundles, (-1, 2), card=SourceCard(labels=("a", "b"))).parent
    write_config(bundles)
    before = file_contents(folder)
    write_config(bundles)  # its own is written anew
    assert file_contents(folder) == before
    (folder / "config.pbtxt").write_text("max_batch_size: 1\n")
    for call in (lambda: write_config(bundles), lambda: check_target(folder)):
        with pytest.raises(TritonError, match="was not written by normfold"):
            call()
    (folder / "config.pbtxt").unlink()
    (folder / "labels.txt").write_text("mine\n")
    with pytest.raises(TritonError, match=r"labels.txt' was not written by normfold"):
        write_config(bundles)
    assert not (folder / "config.pbtxt").exists()


@pytest.mark.slow
def test_config_of_imported_models_is_imported_as_the_same_bundles(tmp_path: Path) -> None:
    """The models, then their bundles with a new configuration, then those without the manifests."""
    TritonWriter(tmp_path / "triton").write("net", versions=(1, 4))
    import_repository(tmp_path / "triton", tmp_path / "models")
    before = file_contents(tmp_path / "models")
    path = prepare_config(find_model(tmp_path / "models", "net")).write().path
    assert triton_accepts(read_as_triton(path), tmp_path / "models" / "net" / "4" / "model.onnx")
    assert (path.parent / "labels.txt").read_text().split() == list(LABELS)

    import_repository(tmp_path / "models", tmp_path / "again")

    assert file_contents(tmp_path / "again") == before
    shutil.copytree(tmp_path / "models", tmp_path / "bare", ignore=shutil.ignore_patterns("manifest.json"))
    import_repository(tmp_path / "bare", tmp_path / "refolded")
    for version in ("1", "4"):
        old, new = (
            read_manifest(tmp_path / root / "net" / version / "manifest.json") for root in ("models", "refolded")
        )
        assert (new.inputs, new.outputs, new.batchable) == (old.inputs, old.outputs, old.batchable)
        assert (new.card.labels, new.fold.batchnorm_before) == (old.card.labels, 0)
