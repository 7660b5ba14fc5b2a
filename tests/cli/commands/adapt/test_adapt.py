"""`normfold adapt`: the version that it writes, what it prints, and what a service makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from normfold.contract.manifest import DEFAULT_PRIOR, read_manifest, sha256_of
from normfold.contract.source_card import SourceCard
from normfold.export.bundle.export import export_bundle
from normfold.export.bundle.statistics import read_merging
from normfold.service.app import create_app
from normfold.service.settings import Settings
from tests.support.bundles import file_contents, statistics_of_bundle
from tests.support.command import RunCommand
from tests.support.onnx_models import (
    COLOUR_CARD,
    colour_convnet,
    run32,
    shifted_inputs,
    small_convnet,
)
from tests.support.service import serve_app
from tests.support.waiting import wait_for


def test_adapted_version_names_its_parent_and_keeps_everything_else(
    normfold: RunCommand, repository: Path, card: SourceCard, samples: Path
) -> None:
    before = file_contents(repository)

    code, out, _ = normfold("adapt", "models/net", "--samples", str(samples))

    assert code == 0
    assert "net/2 is net/1 adapted to 64 samples." in out
    assert "1 of 1 BatchNormalization nodes folded" in out
    assert "equal" in out
    assert before.items() <= file_contents(repository).items()
    folder = repository / "net" / "2"
    manifest = read_manifest(folder / "manifest.json")
    assert manifest.schema_version == 3
    assert manifest.adapted is not None
    assert manifest.adapted.model_dump() == {"from_version": 1, "samples": 64, "prior": DEFAULT_PRIOR}
    assert (manifest.card, manifest.takes_pixels, manifest.copy_of) == (card, False, None)
    assert set(manifest.files) == {
        "trained.safetensors",
        *read_manifest(repository / "net" / "1" / "manifest.json").files,
    }
    assert all(sha256_of(folder / name) == digest for name, digest in manifest.files.items())
    x = shifted_inputs(8, seed=2)
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
    (old_mean, old_var), (new_mean, new_var) = (statistics_of_bundle(repository / "net" / number) for number in "12")
    moved = np.abs(new_mean - old_mean) / np.sqrt(old_var + 1e-5)
    assert layer["mean_moved"] == pytest.approx({"median": np.median(moved), "largest": moved.max()}, rel=1e-5)
    ratio = (new_var + 1e-5) / (old_var + 1e-5)
    assert layer["variance_ratio"]["largest"] == pytest.approx(ratio.max(), rel=1e-5)
    assert 0 < layer["stability"]["means"]["z"] < 4


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_dry_run_shows_what_would_change_and_writes_nothing(
    normfold: RunCommand, repository: Path, samples: Path, as_json: list[str]
) -> None:
    before = file_contents(repository)

    code, out, _ = normfold("adapt", "models/net", "--samples", str(samples), "--dry-run", *as_json)

    assert code == 0
    assert file_contents(repository) == before
    if as_json:
        record = json.loads(out)
        assert (record["version"], record["bundle"], len(record["layers"])) == (None, None, 1)
    else:
        assert "Nothing was written." in out
        assert any(line.split()[:2] == ["bn", "4"] for line in out.splitlines())


@pytest.mark.slow
def test_adapting_again_starts_from_the_statistics_of_training(
    normfold: RunCommand, repository: Path, samples: Path
) -> None:
    def adapt(*options: str) -> np.ndarray:
        assert normfold("adapt", "models/net", "--samples", str(samples), *options)[0] == 0
        newest = max(int(path.name) for path in (repository / "net").iterdir())
        return np.concatenate(statistics_of_bundle(repository / "net" / str(newest)))

    once = adapt()
    twice = adapt()
    all_prior = adapt("--prior", "1e9")

    np.testing.assert_allclose(twice, once, rtol=1e-6)
    np.testing.assert_allclose(all_prior, np.concatenate(statistics_of_bundle(repository / "net" / "1")), atol=1e-4)
    lineage = [read_manifest(repository / "net" / number / "manifest.json").adapted for number in "234"]
    assert [each and each.from_version for each in lineage] == [1, 2, 3]


@pytest.mark.slow
def test_adapt_takes_any_version(normfold: RunCommand, repository: Path, samples: Path) -> None:
    normfold("adapt", "models/net", "--samples", str(samples))

    assert normfold("adapt", "models/net", "--samples", str(samples), "--version", "1")[0] == 0

    manifest = read_manifest(repository / "net" / "3" / "manifest.json")
    assert manifest.adapted is not None
    assert manifest.adapted.from_version == 1


@pytest.mark.slow
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
    old, *new = [np.concatenate(statistics_of_bundle(folder)) for folder in folders]
    for found in new:
        np.testing.assert_allclose(found, new[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(new[0], old, atol=0.1)
    adapted = read_manifest(folders[1] / "manifest.json")
    assert adapted.takes_pixels
    assert adapted.inputs[0].datatype == "UINT8"
    unfolded, folded = onnx.load(folders[1] / "unfolded.onnx"), onnx.load(folders[1] / "model.onnx")
    (wanted,), (got,) = run32(unfolded, {"x": COLOUR_CARD.standardise(pixels)}), run32(folded, {"x": pixels})
    assert np.abs(wanted - got).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.slow
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
        statistics_of_bundle(repository / "net" / "2"), statistics_of_bundle(repository / "net" / "5"), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.slow
def test_polling_service_loads_the_adapted_version_and_the_rollback(
    normfold: RunCommand, repository: Path, samples: Path
) -> None:
    x = shifted_inputs(1, seed=3)
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
for package in ("torch", "fastapi", "starlette", "uvicorn"):
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


@pytest.mark.slow
def test_external_weights_stay_external(normfold: RunCommand, tmp_path: Path, samples: Path) -> None:
    proto = small_convnet(np.random.default_rng(0))
    onnx.save_model(proto, tmp_path / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    export_bundle(tmp_path / "net.onnx", tmp_path / "models", "net")

    assert normfold("adapt", "models/net", "--samples", str(samples))[0] == 0
    assert normfold("adapt", "models/net", "--samples", str(samples))[0] == 0

    for number in "23":
        manifest = read_manifest(tmp_path / "models" / "net" / number / "manifest.json")
        assert {"model.onnx.data", "unfolded.onnx.data"} <= set(manifest.files)
