"""`normfold adapt`, as an operator meets it: what is refused, printed and written, and what a service makes of it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from normfold.contract.drift.monitor import divergence, read_monitor
from normfold.contract.manifest import DEFAULT_PRIOR, read_manifest, sha256_of
from normfold.contract.source_card import SourceCard
from normfold.export.adapt import adapt
from normfold.export.bundle.export import export_bundle
from normfold.export.bundle.statistics import read_merging
from normfold.service.app import create_app
from normfold.service.settings import Settings
from tests.support.command import RunCommand
from tests.support.onnx_models import COLOUR_CARD, colour_convnet, conv_blocks, model, run32, small_convnet
from tests.support.service import serve_app
from tests.support.waiting import wait_for

CARD = SourceCard(labels=("a", "b", "c"), logits=("y",), metrics={"test_accuracy": 0.5}, origin="a test")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("NORMFOLD_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with version 1 of net: Conv, BatchNormalization, Relu, Gemm; x (n, 4, 5, 5), y (n, 3)."""
    onnx.save(small_convnet(np.random.default_rng(0)), tmp_path / "net.onnx")
    export_bundle(tmp_path / "net.onnx", tmp_path / "models", "net", card=CARD)
    return tmp_path / "models"


def shifted(count: int = 64, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(2.0, 3.0, (count, 4, 5, 5)).astype(np.float32)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    np.savez(tmp_path / "samples.npz", x=shifted(), y=np.zeros(64))
    return tmp_path / "samples.npz"


def files(repository: Path) -> dict[str, bytes]:
    return {str(path.relative_to(repository)): path.read_bytes() for path in repository.rglob("*") if path.is_file()}


def statistics_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    found = {
        each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(folder / "unfolded.onnx").graph.initializer
    }
    return found["bn.mean"], found["bn.var"]


def test_adapted_version_names_its_parent_and_keeps_everything_else(
    normfold: RunCommand, repository: Path, samples: Path
) -> None:
    before = files(repository)

    code, out, _ = normfold("adapt", "models/net", "--samples", str(samples))

    assert code == 0
    assert "net/2 is net/1 adapted to 64 samples." in out
    assert "1 of 1 BatchNormalization nodes folded" in out
    assert "equal" in out
    assert before.items() <= files(repository).items()
    folder = repository / "net" / "2"
    manifest = read_manifest(folder / "manifest.json")
    assert manifest.schema_version == 3
    assert manifest.adapted is not None
    assert manifest.adapted.model_dump() == {"from_version": 1, "samples": 64, "prior": DEFAULT_PRIOR}
    assert (manifest.card, manifest.takes_pixels, manifest.copy_of) == (CARD, False, None)
    assert set(manifest.files) == {
        "trained.safetensors",
        *read_manifest(repository / "net" / "1" / "manifest.json").files,
    }
    assert all(sha256_of(folder / name) == digest for name, digest in manifest.files.items())
    x = shifted(8, seed=2)
    (unfolded,), (model_,) = (run32(onnx.load(folder / name), {"x": x}) for name in ("unfolded.onnx", "model.onnx"))
    np.testing.assert_allclose(unfolded, model_, rtol=1e-4, atol=1e-4)
    (old,) = run32(onnx.load(repository / "net" / "1" / "model.onnx"), {"x": x})
    assert not np.allclose(old, model_, rtol=0.1)


def test_json_output_of_adapt_is_the_record(normfold: RunCommand, repository: Path, samples: Path) -> None:
    code, out, _ = normfold("adapt", "models/net", "--samples", str(samples), "--prior", "0", "--json")

    record = json.loads(out)
    assert code == 0
    assert (record["name"], record["from_version"], record["version"]) == ("net", 1, 2)
    assert (record["samples"], record["prior"], record["bundle"]) == (64, 0.0, "models/net/2")
    assert record["verification"]["passes"] is True
    (layer,) = record["layers"]
    assert (layer["node"], layer["channels"]) == ("bn", 4)
    (old_mean, old_var), (new_mean, new_var) = (statistics_of(repository / "net" / number) for number in "12")
    moved = np.abs(new_mean - old_mean) / np.sqrt(old_var + 1e-5)
    assert layer["mean_moved"] == pytest.approx({"median": np.median(moved), "largest": moved.max()}, rel=1e-5)
    ratio = (new_var + 1e-5) / (old_var + 1e-5)
    assert layer["variance_ratio"]["largest"] == pytest.approx(ratio.max(), rel=1e-5)
    assert 0 < layer["stability"]["means"]["z"] < 4


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_dry_run_shows_what_would_change_and_writes_nothing(
    normfold: RunCommand, repository: Path, samples: Path, as_json: list[str]
) -> None:
    before = files(repository)

    code, out, _ = normfold("adapt", "models/net", "--samples", str(samples), "--dry-run", *as_json)

    assert code == 0
    assert files(repository) == before
    if as_json:
        record = json.loads(out)
        assert (record["version"], record["bundle"], len(record["layers"])) == (None, None, 1)
    else:
        assert "Nothing was written." in out
        assert any(line.split()[:2] == ["bn", "4"] for line in out.splitlines())


def test_adapting_again_starts_from_the_statistics_of_training(
    normfold: RunCommand, repository: Path, samples: Path
) -> None:
    def adapt(*options: str) -> np.ndarray:
        assert normfold("adapt", "models/net", "--samples", str(samples), *options)[0] == 0
        newest = max(int(path.name) for path in (repository / "net").iterdir())
        return np.concatenate(statistics_of(repository / "net" / str(newest)))

    once = adapt()
    twice = adapt()
    all_prior = adapt("--prior", "1e9")

    np.testing.assert_allclose(twice, once, rtol=1e-6)
    np.testing.assert_allclose(all_prior, np.concatenate(statistics_of(repository / "net" / "1")), atol=1e-4)
    lineage = [read_manifest(repository / "net" / number / "manifest.json").adapted for number in "234"]
    assert [each and each.from_version for each in lineage] == [1, 2, 3]


def test_adapt_takes_any_version(normfold: RunCommand, repository: Path, samples: Path) -> None:
    normfold("adapt", "models/net", "--samples", str(samples))

    assert normfold("adapt", "models/net", "--samples", str(samples), "--version", "1")[0] == 0

    manifest = read_manifest(repository / "net" / "3" / "manifest.json")
    assert manifest.adapted is not None
    assert manifest.adapted.from_version == 1


def test_thresholds_are_computed_from_the_samples(normfold: RunCommand, repository: Path, tmp_path: Path) -> None:
    """Windows of such inputs are below the thresholds of the new version, windows of what training saw above them."""
    np.savez(tmp_path / "samples.npz", x=shifted(400))
    assert "Inputs are monitored for drift at 1 layer" in normfold("adapt", "models/net", "--samples", "samples.npz")[1]

    monitor = read_monitor(repository / "net" / "2" / "monitor.json")
    assert monitor.calibration_rows == 400
    (layer,) = monitor.layers
    assert layer.threshold is not None
    graph = onnx.load(repository / "net" / "2" / "monitor.onnx")

    def score(x: np.ndarray) -> float:
        found = dict(zip((value.name for value in graph.graph.output), run32(graph, {"x": x}), strict=True))
        means, squares = (found[name].mean(axis=0, dtype=np.float64) for name in (layer.means, layer.squares))
        return float(divergence(means, squares - means**2, np.array(layer.variances)).mean())

    assert score(shifted(200, seed=5)) < layer.threshold
    assert score(np.random.default_rng(6).normal(size=(200, 4, 5, 5)).astype(np.float32)) > layer.threshold


def test_thresholds_use_as_many_samples_as_allowed(
    normfold: RunCommand, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second of 201 would be no more than 101."""
    monkeypatch.setattr(adapt, "MAX_CALIBRATION_SAMPLES", 150)
    np.savez(tmp_path / "samples.npz", x=np.random.default_rng(0).permutation(shifted(201)))

    assert "thresholds come from 150 samples." in _in_one_line(
        normfold("adapt", "models/net", "--samples", "samples.npz")[1]
    )
    assert read_monitor(repository / "net" / "2" / "monitor.json").calibration_rows == 150


def test_adapt_rejects_identical_samples(normfold: RunCommand, repository: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", x=np.zeros_like(shifted(64)))

    code, _, error = normfold("adapt", "models/net", "--samples", "samples.npz")

    assert code == 1
    assert "All 64 samples are the same" in _in_one_line(error)
    assert [path.name for path in (repository / "net").iterdir() if path.name.isdigit()] == ["1"]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "has_thresholds"), [(32, False), (99, False), (100, True)])
def test_too_few_samples_for_thresholds_are_reported(
    normfold: RunCommand, repository: Path, tmp_path: Path, count: int, has_thresholds: bool
) -> None:
    """Enough to adapt, too few for thresholds of drift; the version that is adapted may well have some."""
    says = "without thresholds, which need at least 100 samples: scores are shown, `drifted` stays null, and the alert"
    np.savez(tmp_path / "samples.npz", x=shifted(count))
    assert repository.exists()

    _, text, _ = normfold("adapt", "models/net", "--samples", "samples.npz")
    record = json.loads(normfold("adapt", "models/net", "--samples", "samples.npz", "--json")[1])["monitor"]

    assert (says in _in_one_line(text)) is not has_thresholds
    assert (says in record["sentence"]) is not has_thresholds
    assert record["calibration_rows"] == (count if has_thresholds else 0)
    assert [layer["threshold"] is not None for layer in record["layers"]] == [has_thresholds]


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def test_bundle_without_drift_monitor_stays_without(normfold: RunCommand, tmp_path: Path, samples: Path) -> None:
    onnx.save(small_convnet(np.random.default_rng(0)), tmp_path / "net.onnx")
    export_bundle(tmp_path / "net.onnx", tmp_path / "models", "net", monitoring=False)

    assert "Its inputs are not monitored for drift." in normfold("adapt", "models/net", "--samples", str(samples))[1]

    assert not (tmp_path / "models" / "net" / "2" / "monitor.onnx").exists()


def test_bundle_that_was_not_merged_stays_unmerged(normfold: RunCommand, tmp_path: Path, samples: Path) -> None:
    onnx.save(small_convnet(np.random.default_rng(0)), tmp_path / "net.onnx")
    for name, merging in (("merged", True), ("apart", False)):
        export_bundle(tmp_path / "net.onnx", tmp_path / "models", name, merging=merging)
        assert normfold("adapt", f"models/{name}", "--samples", str(samples))[0] == 0
        assert read_merging(tmp_path / "models" / name / "2" / "statistics.safetensors") is merging


@pytest.mark.slow
def test_bundle_that_takes_pixels_adapts_to_pictures_and_to_samples_of_the_service(
    normfold: RunCommand, tmp_path: Path
) -> None:
    onnx.save(colour_convnet(np.random.default_rng(0)), tmp_path / "net.onnx")
    card = SourceCard(preprocessing=COLOUR_CARD)
    export_bundle(tmp_path / "net.onnx", tmp_path / "models", "net", card=card, takes_pixels=True)
    pixels = np.random.default_rng(1).integers(0, 64, (40, 3, 6, 6), np.uint8)  # dark ones
    (tmp_path / "dark").mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture.transpose(1, 2, 0)).save(tmp_path / "dark" / f"{number:02}.png")
    np.savez(tmp_path / "kept.npz", x=pixels)
    np.savez(tmp_path / "raw.npz", x=pixels.astype(np.float64))

    for given in (["dark"], ["kept.npz", "--tensors"], ["raw.npz", "--raw"]):
        code, _, err = normfold("adapt", "models/net", "--version", "1", "--samples", *given)
        assert (code, err) == (0, "")

    folders = [tmp_path / "models" / "net" / number for number in "1234"]
    old, *new = [np.concatenate(statistics_of(folder)) for folder in folders]
    for found in new:
        np.testing.assert_allclose(found, new[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(new[0], old, atol=0.1)
    adapted = read_manifest(folders[1] / "manifest.json")
    assert adapted.takes_pixels
    assert adapted.inputs[0].datatype == "UINT8"
    unfolded, folded = onnx.load(folders[1] / "unfolded.onnx"), onnx.load(folders[1] / "model.onnx")
    (wanted,), (got,) = run32(unfolded, {"x": COLOUR_CARD.standardise(pixels)}), run32(folded, {"x": pixels})
    assert np.abs(wanted - got).max() <= 1e-5 * np.abs(wanted).max()


def moving() -> np.ndarray:
    x = shifted()
    x[32:] += 5
    return x


def broken() -> np.ndarray:
    x = shifted()
    x[17, 0, 0, 0] = np.nan
    return x


@pytest.mark.parametrize(
    ("x", "code", "says"),
    [
        (shifted(31), 1, "31 samples are too few: at least 32 are needed, so that their two halves can be compared"),
        (shifted(0), 1, "0 samples are too few"),
        (np.zeros((20_001, 4, 5, 5), np.float32), 1, "20,001 samples are more than the 20,000 that can help"),
        (moving(), 1, "The first half of the samples is not like the second: at BatchNormalization 'bn' their means"),
        (3e38 * np.sign(shifted(64)), 1, "drive BatchNormalization 'bn' beyond what its numbers can hold"),
        (
            broken(),
            2,
            "Sample 17 of the array 'x' of 'samples.npz', counted from 0, holds a value that is not a finite",
        ),
        (np.zeros((64, 4, 5, 6), np.float32), 2, "has shape [64, 4, 5, 6]"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_unusable_samples_change_nothing(
    normfold: RunCommand, repository: Path, tmp_path: Path, x: np.ndarray, code: int, says: str, dry: list[str]
) -> None:
    np.savez(tmp_path / "samples.npz", x=x)
    before = files(repository)

    found, _, err = normfold("adapt", "models/net", "--samples", "samples.npz", *dry)

    assert found == code
    assert err.startswith("error: ")
    assert says in " ".join(err.split())
    assert files(repository) == before
    assert [path.name for path in (repository / "net").iterdir()] == ["1"]


def test_rejected_dry_run_shows_the_layers(normfold: RunCommand, repository: Path, tmp_path: Path) -> None:
    assert repository.exists()
    np.savez(tmp_path / "samples.npz", x=moving())

    code, out, _ = normfold("adapt", "models/net", "--samples", "samples.npz", "--dry-run")

    assert code == 1
    assert any(line.startswith("bn ") for line in out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["models/none"], 2, "There is no model 'none' in 'models'; there are bare, damaged, net, relu."),
        (["models/.."], 2, "There is no model '..'"),
        (["none/net"], 2, "There is no folder 'none'; name the repository with --repository."),
        (["net"], 2, "There is no folder 'model_repository'; name the repository with --repository."),
        (["models"], 2, "'models' is a folder, and no model; give REPOSITORY/NAME."),
        (["./models/"], 2, "'models' is a folder, and no model; give REPOSITORY/NAME."),
        (["models/net", "--version", "9"], 2, "There is no version 9 of 'net'; there are 1."),
        (["models/bare"], 2, "Version 1 of 'bare' was exported without its unfolded model (--no-source)"),
        (["models/relu"], 2, "There is no BatchNormalization in this model, so no statistics to recalibrate."),
        (["models/damaged"], 1, "Version 1 of 'damaged' is damaged, and nothing was written"),
        (["models/net", "--samples", "none.npz"], 2, "'none.npz' cannot be read: No such file or directory."),
        (["models/net", "--prior", "-1"], 2, "Invalid value for '--prior'"),
        (["models/net", "--prior", "nan"], 2, "--prior"),
        (["models/net", "--prior", "inf"], 2, "--prior"),
    ],
)
def test_wrong_use_changes_nothing(
    normfold: RunCommand, repository: Path, samples: Path, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    relu = model([onnx.helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 4, 5, 5]}, ["y"], {}, dtype=np.float32)
    onnx.save(relu, tmp_path / "relu.onnx")
    export_bundle(tmp_path / "relu.onnx", repository, "relu")
    export_bundle(tmp_path / "net.onnx", repository, "bare", keep_source=False)
    damaged = export_bundle(tmp_path / "net.onnx", repository, "damaged").path
    (damaged / "unfolded.onnx").write_bytes(b"")
    before = files(repository)

    found, _, err = normfold("adapt", arguments[0], "--samples", str(samples), *arguments[1:])

    assert (found, says in " ".join(err.replace("│", " ").split())) == (code, True)
    assert files(repository) == before


def test_one_layer_that_cannot_be_replaced_is_left_with_allow_partial(
    normfold: RunCommand, samples: Path, tmp_path: Path
) -> None:
    net = conv_blocks(np.random.default_rng(0), 3)
    net.graph.input.append(onnx.helper.make_tensor_value_info("bn1.mean", onnx.TensorProto.FLOAT, [4]))
    onnx.save(net, tmp_path / "net.onnx")
    export_bundle(tmp_path / "net.onnx", tmp_path / "models", "net", monitoring=False)
    asked = ("adapt", "models/net", "--samples", str(samples), "--json")

    code, _, err = normfold(*asked)
    assert code == 2
    assert "'bn1': its running_mean may be overridden by the caller (--freeze-inputs" in _in_one_line(err)
    assert "--allow-partial leaves it" in _in_one_line(err)
    assert [path.name for path in (tmp_path / "models" / "net").iterdir()] == ["1"]

    for again in ("2", "3"):  # an adapted version holds what training left of the others alone
        code, out, err = normfold(*asked, "--allow-partial")
        record = json.loads(out)
        assert (code, str(record["version"])) == (0, again)
        assert [layer["node"] for layer in record["layers"]] == ["bn0", "bn2"]
        assert "warning: The statistics of a layer cannot be replaced" in _in_one_line(err)
        assert len(record["unchanged"]) == 1


def test_fold_that_fails_verification_writes_no_version(
    normfold: RunCommand, repository: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(repository)
    monkeypatch.setattr("normfold.export.fold.batchnorm_parameters.DEFAULT_EPSILON", 1e-3)

    code, _, err = normfold("adapt", "models/net", "--samples", str(samples))

    assert code == 1
    assert "error: Output 'y' differs by" in err
    assert files(repository) == before
    assert [path.name for path in (repository / "net").iterdir()] == ["1"]


def test_the_repository_shows_lineage_and_rolls_back(normfold: RunCommand, repository: Path, samples: Path) -> None:
    normfold("adapt", "models/net", "--samples", str(samples))
    assert normfold("repository", "rollback", "net", "--repository", "models")[0] == 0
    assert normfold("repository", "rollback", "net", "--repository", "models")[0] == 0

    out = normfold("repository", "list", "--repository", "models")[1]
    machine = json.loads(normfold("repository", "list", "--repository", "models", "--json")[1])["models"][0]

    assert "adapted" in out
    assert [version["copy_of"] for version in machine["versions"]] == [None, None, 1, 2]
    adapted = {"from_version": 1, "samples": 64, "prior": 16.0}
    assert [version["adapted"] for version in machine["versions"]] == [None, adapted, None, adapted]
    assert [version["accuracy"] for version in machine["versions"]] == [0.5, None, 0.5, None]
    assert all(version["problem"] is None for version in machine["versions"])
    schemas = [read_manifest(repository / "net" / number / "manifest.json").schema_version for number in "1234"]
    assert schemas == [1, 3, 2, 3]
    assert normfold("adapt", "models/net", "--samples", str(samples))[0] == 0  # a copy keeps what training left
    for one, other in zip(
        statistics_of(repository / "net" / "2"), statistics_of(repository / "net" / "5"), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.slow
def test_polling_service_loads_the_adapted_version_and_the_rollback(
    normfold: RunCommand, repository: Path, samples: Path
) -> None:
    x = shifted(1, seed=3)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}]}
    settings = Settings(repository=repository, provider="cpu", model_control="poll", poll_interval_s=0.05)

    with serve_app(create_app(settings), settings) as service:
        service.wait_until_loaded()

        def answer() -> tuple[str, list[float]]:
            found = service.client.post("/v2/models/net/infer", json=body).json()
            return found["model_version"], found["outputs"][0]["data"]

        first = answer()
        assert normfold("adapt", "models/net", "--samples", str(samples))[0] == 0
        wait_for(lambda: answer()[0] == "2")
        second = answer()
        assert normfold("repository", "rollback", "net", "--repository", "models")[0] == 0
        wait_for(lambda: answer()[0] == "3")
        third = answer()

    assert (first[0], third[1]) == ("1", first[1])
    (wanted,) = run32(onnx.load(repository / "net" / "2" / "unfolded.onnx"), {"x": x})
    np.testing.assert_allclose(second[1], wanted.ravel(), rtol=1e-4, atol=1e-4)
    assert not np.allclose(second[1], first[1], rtol=0.1)


WITHOUT_TORCH = """
import sys
for package in ("torch", "models", "service", "fastapi", "uvicorn"):
    sys.modules[package] = None
from normfold.cli.main import main
main()
"""


@pytest.mark.slow
def test_adapt_needs_neither_torch_nor_the_service(repository: Path, samples: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "adapt", str(repository / "net"), "--samples", str(samples)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "net/2 is net/1 adapted" in ended.stdout


def test_external_weights_stay_external(normfold: RunCommand, tmp_path: Path, samples: Path) -> None:
    proto = small_convnet(np.random.default_rng(0))
    onnx.save_model(proto, tmp_path / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    export_bundle(tmp_path / "net.onnx", tmp_path / "models", "net")

    assert normfold("adapt", "models/net", "--samples", str(samples))[0] == 0
    assert normfold("adapt", "models/net", "--samples", str(samples))[0] == 0

    for number in "23":
        manifest = read_manifest(tmp_path / "models" / "net" / number / "manifest.json")
        assert {"model.onnx.data", "unfolded.onnx.data"} <= set(manifest.files)


def test_full_disk_for_the_activations_is_an_error(
    normfold: RunCommand, repository: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = files(repository)
    monkeypatch.setattr(np, "save", full)

    code, _, err = normfold("adapt", "models/net", "--samples", str(samples))

    assert code == 3
    assert f"Cannot write {tempfile.gettempdir()!r}: no space left on device." in err
    assert files(repository) == before


def test_adapt_finds_a_name_in_the_repository_of_the_environment(
    normfold: RunCommand, repository: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("adapt", "net", "--samples", str(samples), "--dry-run", "--json")
    assert normfold(*arguments, "--repository", str(repository))[0] == 0
    monkeypatch.setenv("NORMFOLD_REPOSITORY", str(repository))
    assert normfold(*arguments)[0] == 0
    code, _, err = normfold("adapt", "none/net", "--samples", str(samples))  # a folder in the argument goes first
    assert (code, "There is no folder 'none'" in err) == (2, True)
