"""Bundles of a Triton repository: what is imported, skipped and refused, and what is left of a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from normfold.contract.bundle import check_files, read_own_manifest
from normfold.contract.manifest import read_manifest
from normfold.contract.record import to_json
from normfold.contract.source_card import SourceCard
from normfold.export.errors import TritonError
from normfold.export.triton.import_repository import ModelImport, Outcome, import_repository
from normfold.export.triton.import_version import write_bundle
from tests.support.bundles import LABELS, TRITON_CONFIG, TRITON_TENSORS, BundleWriter, TritonWriter, file_contents
from tests.support.onnx_models import run64, small_convnet

Import = tuple[Path, dict[str, ModelImport]]


@pytest.fixture
def triton(tmp_path: Path) -> TritonWriter:
    return TritonWriter(tmp_path / "triton")


def run_import(triton: TritonWriter, **options: bool) -> Import:
    """Import the repository into one beside it; return that, and the outcomes by name."""
    target = triton.root.parent / "models"
    found = import_repository(triton.root, target, **options)
    return target, {one.name: one for one in found}


def numbers(model: ModelImport) -> list[int]:
    """Return the versions that were written."""
    return [manifest.version for manifest in model.written]


def assert_right(repository: Path, name: str, version: int) -> None:
    """Check that a bundle computes what its ONNX file computed, and is what its manifest says."""
    folder = repository / name / str(version)
    check_files(folder, read_own_manifest(folder, repository), repository)
    x = np.random.default_rng(7).normal(size=(2, 4, 5, 5))
    (expected,) = run64(small_convnet(np.random.default_rng(version)), {"x": x})
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x.astype(np.float32)})[0], expected, rtol=1e-3, atol=1e-4)
    kinds = {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}
    assert "BatchNormalization" not in kinds


@pytest.mark.slow
def test_import_keeps_numbers_and_labels_and_folds(triton: TritonWriter) -> None:
    triton.write("net", versions=(2, 10))

    repository, found = run_import(triton)

    assert (found["net"].outcome, numbers(found["net"])) == (Outcome.IMPORTED, [2, 10])
    for version in (2, 10):
        assert_right(repository, "net", version)
        manifest = read_manifest(repository / "net" / str(version) / "manifest.json")
        assert manifest.card.labels == LABELS
        assert manifest.batchable
        assert manifest.verification
        assert manifest.fold.batchnorm_before == 1
    assert sorted(path.name for path in (repository / "net").iterdir()) == ["10", "2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        {"config": None},
        {"config": "max_batch_size: 8"},
        {"config": 'default_model_filename: "net.onnx" backend: "onnxruntime"', "file": "net.onnx"},
        {"external": True},
        {"file": "model.onnx/model.onnx", "external": True},
        {"config": None, "batch": 1},
    ],
)
def test_import_takes_every_layout_of_a_model(triton: TritonWriter, layout: dict[str, object]) -> None:
    triton.write("net", **layout)

    repository, found = run_import(triton)

    assert found["net"].outcome is Outcome.IMPORTED, found["net"].problem
    if "batch" not in layout:
        assert_right(repository, "net", 1)


@pytest.mark.slow
def test_import_names_everything_that_a_bundle_does_not_hold(triton: TritonWriter) -> None:
    config = f"""{TRITON_CONFIG} version_policy {{ specific {{ versions: [1, 4] }} }}
        dynamic_batching {{ preferred_batch_size: [2, 4] max_queue_delay_microseconds: 500 preserve_ordering: true
            default_queue_policy {{ timeout_action: DELAY default_timeout_microseconds: 1500000 max_queue_size: 9 }} }}
        instance_group [ {{ count: 2 kind: KIND_GPU }}, {{ kind: 9 }} ]
        optimization {{ graph {{ level: 1 }} }} model_warmup [ {{ name: "one" }} ]
        metric_tags {{ key: "a" value: "b" }}"""
    (triton.write("net", config, versions=(1, 2)) / "configs").mkdir()

    notes = run_import(triton)[1]["net"].notes

    expected = (
        *("lets Triton serve 1;", "NORMFOLD_VERSION_POLICY=1,4", "names 4, which", "NORMFOLD_MAX_BATCH_SIZE"),
        *("`preferred_batch_size` 2, 4", "NORMFOLD_MAX_BATCH_DELAY_MS=0.5", "NORMFOLD_TIMEOUT_S=1.5", "DELAY"),
        *("`max_queue_size` 9", "2 × KIND_GPU", "`dynamic_batching.preserve_ordering`", "`optimization`"),
        *(
            "`model_warmup`",
            "`metric_tags` is left out: it has no counterpart",
            "`configs/`",
            "`allow_timeout_override`",
        ),
    )
    for part in expected:
        assert any(part in note for note in notes), part
    assert len(notes) == len(set(notes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            TRITON_CONFIG.replace("[ 4, 5, 5 ]", "[ 100 ] reshape { shape: [ 4, 5, 5 ] }"),
            "see the input 'x' with the shape",
        ),
        (TRITON_TENSORS.replace('"x"', '"x" optional: true') + "max_batch_size: 8", "Input 'x' is optional for Triton"),
        (TRITON_CONFIG.replace("labels.txt", "two.txt"), "2 labels for the output 'y' with 3 classes"),
        (TRITON_TENSORS.replace("[ 4,", "[ -1, 4,").replace("[ 3", "[ -1, 3"), "rows are independent, so the service"),
        (
            TRITON_TENSORS.replace("[ 4,", "[ 7, 4,").replace("[ 3", "[ -1, 3"),
            "'x' has the shape [7, 4, 5, 5] with Triton",
        ),
    ],
)
def test_import_says_what_clients_see_otherwise(triton: TritonWriter, config: str, says: str) -> None:
    (triton.write("net", config) / "two.txt").write_text("a\nb\n\n")

    found = run_import(triton)[1]["net"]

    assert found.outcome is Outcome.IMPORTED, found.problem
    assert any(says in note for note in found.notes), found.notes


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('platform: "tensorflow_savedmodel"', "Its backend is 'tensorflow_savedmodel'"),
        ('backend: "python"', "Its backend is 'python'"),
        ('platform: "ensemble" ensemble_scheduling { step [ { model_name: "a" } ] }', "an ensemble of other models"),
        (TRITON_CONFIG + "sequence_batching { direct { } }", "keeps state over the requests"),
        ('default_model_filename: "model.plan"', "names no backend, and no version of it holds 'model.plan'"),
    ],
)
def test_import_skips_what_no_bundle_holds(triton: TritonWriter, config: str, says: str) -> None:
    triton.write("net", config)

    repository, found = run_import(triton)

    assert (found["net"].outcome, says in str(found["net"].problem)) == (Outcome.SKIPPED, True), found
    assert not repository.exists()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (TRITON_CONFIG.replace('"x"', '"z"'), "The configuration has an input 'z'; the network has 'x'."),
        (TRITON_CONFIG.replace('"y"', '"z"'), "an output 'z'; the network has 'y'."),
        (
            TRITON_CONFIG.replace("TYPE_FP32 dims: [ 4", "TYPE_FP64 dims: [ 4"),
            "data_type TYPE_FP64 in the configuration",
        ),
        (
            TRITON_CONFIG.replace("[ 4, 5, 5 ]", "[ 4, 5, 6 ]"),
            "shape [-1, 4, 5, 6] in the configuration, [-1, 4, 5, 5]",
        ),
        (TRITON_CONFIG.replace("[ 4, 5, 5 ]", "[ 4, -1, -1 ]"), "shape [-1, 4, -1, -1] in the configuration"),
        (TRITON_TENSORS, "shape [4, 5, 5] in the configuration, [-1, 4, 5, 5] in the network"),
        (TRITON_CONFIG.replace("labels.txt", "none.txt"), "none.txt' cannot be read: No such file"),
        (TRITON_CONFIG.replace("labels.txt", "../x"), "Its label file '../x' lies outside its folder"),
        (TRITON_CONFIG + 'name: "other"', "is of the model 'other', but lies in 'net'"),
        (TRITON_CONFIG + 'default_model_filename: "/etc/passwd"', "'/etc/passwd' lies outside"),
        (TRITON_CONFIG + 'default_model_filename: "net.onnx"', "Version 1 has no file 'net.onnx'"),
        (TRITON_TENSORS + "max_batch_size: -1", "Its max_batch_size is -1"),
        (TRITON_CONFIG.replace("TYPE_FP32 dims: [ 4", "99 dims: [ 4"), "data_type 99 in the configuration"),
        ("max_batch_size: many", "config.pbtxt' is not a model configuration: 1:17"),
    ],
)
def test_import_of_a_model_that_contradicts_itself_writes_nothing(triton: TritonWriter, config: str, says: str) -> None:
    triton.write("net", config)

    repository, found = run_import(triton)

    assert (found["net"].outcome, says in str(found["net"].problem)) == (Outcome.FAILED, True), found
    assert not repository.exists()


def test_import_refuses_a_fixed_first_axis_with_batches(triton: TritonWriter) -> None:
    triton.write("net", batch=1)
    assert "whose first axis is not free; max_batch_size must be 0" in str(run_import(triton)[1]["net"].problem)


@pytest.mark.slow
def test_import_that_fails_in_one_version_writes_no_version_of_the_model(triton: TritonWriter) -> None:
    triton.write("good")
    folder = triton.write("net", versions=(1, 2))
    second = folder / "2" / "model.onnx"
    broken = onnx.load(second)
    scale = next(one for one in broken.graph.initializer if one.name == "bn.scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.full(4, np.nan, np.float32), "bn.scale"))
    onnx.save(broken, second)

    repository, found = run_import(triton)

    assert (found["good"].outcome, found["net"].outcome) == (Outcome.IMPORTED, Outcome.FAILED)
    assert found["net"].problem
    assert [path.name for path in repository.iterdir()] == ["good"]
    assert_right(repository, "good", 1)


@pytest.mark.slow
def test_import_that_is_interrupted_leaves_nothing(triton: TritonWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    triton.write("net", versions=(1, 2))
    calls = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write_bundle(*arguments)

    monkeypatch.setattr("normfold.export.triton.import_model.write_bundle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_import(triton)
    assert not (triton.root.parent / "models").exists()


@pytest.mark.slow
def test_import_again_writes_new_versions_alone(triton: TritonWriter) -> None:
    triton.write("net", versions=(1,))
    repository, _ = run_import(triton)
    before = file_contents(repository)
    TritonWriter(triton.root.parent / "newer").write("net", versions=(3,))
    (triton.root.parent / "newer" / "net" / "3").rename(triton.root / "net" / "3")

    again = run_import(triton)[1]["net"]

    assert (numbers(again), again.present) == ([3], (1,))
    assert {name: file_contents(repository)[name] for name in before} == before
    assert run_import(triton)[1]["net"].outcome is Outcome.PRESENT


@pytest.mark.slow
def test_import_overwrites_no_version_of_another_network(triton: TritonWriter) -> None:
    triton.write("net")
    repository, _ = run_import(triton)
    before = file_contents(repository)
    onnx.save(small_convnet(np.random.default_rng(99)), triton.root / "net" / "1" / "model.onnx")

    found = run_import(triton)[1]["net"]

    assert found.outcome is Outcome.FAILED
    assert "exists, and is not of this network" in str(found.problem)
    assert file_contents(repository) == before


@pytest.mark.slow
def test_dry_run_finds_what_an_import_finds_and_writes_nothing(triton: TritonWriter) -> None:
    triton.write("net")
    triton.write("wrong", TRITON_CONFIG.replace('"x"', '"z"'))

    repository, tried = run_import(triton, dry_run=True)

    assert not repository.exists()
    done = run_import(triton)[1]
    for name, one in tried.items():
        assert (one.outcome, one.notes, one.problem) == (done[name].outcome, done[name].notes, done[name].problem)
        networks = [[manifest.files["model.onnx"] for manifest in found.written] for found in (one, done[name])]
        assert networks[0] == networks[1]


@pytest.mark.slow
def test_import_of_a_bundle_copies_it(triton: TritonWriter) -> None:
    writer = BundleWriter(triton.root)
    folder = writer.digits(3, card=SourceCard(labels=LABELS, logits=("logits",)))

    repository, found = run_import(triton)

    assert numbers(found["digits"]) == [3]
    assert not found["digits"].notes
    assert file_contents(repository / "digits" / "3") == file_contents(folder)
    folder.parent.rename(triton.root / "renamed")
    run_import(triton)
    assert read_own_manifest(repository / "renamed" / "3", repository).card.labels == LABELS


def test_import_of_a_bundle_says_that_it_keeps_its_labels(triton: TritonWriter) -> None:
    folder = BundleWriter(triton.root).digits(1, card=SourceCard(labels=LABELS, logits=("logits",))).parent
    (folder / "config.pbtxt").write_text(
        'output { name: "logits" data_type: TYPE_FP32 dims: [-1, 3] label_filename: "l" }'
    )
    (folder / "l").write_text("x\ny\nz\n")
    assert any("keeps its own labels" in note for note in run_import(triton)[1]["digits"].notes)


def test_import_of_a_damaged_bundle_fails(triton: TritonWriter) -> None:
    folder = BundleWriter(triton.root).digits(1)
    manifest = read_manifest(folder / "manifest.json")
    (folder / "manifest.json").write_text(to_json(manifest.model_copy(update={"files": {"model.onnx": "0" * 64}})))
    assert "is damaged, and nothing was written" in str(run_import(triton)[1]["digits"].problem)


def test_import_ignores_what_is_no_version(triton: TritonWriter) -> None:
    folder = triton.write("net", versions=())
    for name in ("01", "v1", "0", "1.partial"):
        (folder / name).mkdir()
    (triton.root / "notes").mkdir()
    (triton.root / ".git").mkdir()

    found = run_import(triton)[1]

    assert "It has no version" in str(found["net"].problem)
    assert "neither a 'config.pbtxt' nor a version" in str(found["notes"].problem)
    assert found.keys() == {"net", "notes"}


@pytest.mark.parametrize(
    ("source", "target", "names", "says"),
    [
        ("none", "models", (), "There is no folder"),
        ("triton/net/config.pbtxt", "models", (), "There is no folder"),
        ("triton/net", "models", (), "is the folder of one model; did you mean its parent"),
        ("triton", "triton", (), "cannot be imported into itself"),
        ("triton", "models", ("other",), "There is no model 'other' in .*; there are 'net'"),
    ],
)
def test_import_of_no_repository_is_refused(
    triton: TritonWriter, source: str, target: str, names: tuple[str, ...], says: str
) -> None:
    triton.write("net")
    root = triton.root.parent
    with pytest.raises(TritonError, match=says):
        import_repository(root / source, root / target, names)
