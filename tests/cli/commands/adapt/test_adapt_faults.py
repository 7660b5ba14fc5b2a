"""What `normfold adapt` refuses: unusable samples, wrong use, layers that cannot be replaced, a full disk."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from normfold.export.bundle.export import export_bundle
from tests.support.bundles import file_contents
from tests.support.command import RunCommand, in_one_line
from tests.support.onnx_models import (
    conv_blocks,
    model,
    shifted_inputs,
)

pytestmark = pytest.mark.slow


def test_adapt_rejects_identical_samples(normfold: RunCommand, repository: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", x=np.zeros_like(shifted_inputs(64)))

    code, _, error = normfold("adapt", "models/net", "--samples", "samples.npz")

    assert code == 1
    assert "All 64 samples are the same" in in_one_line(error)
    assert [path.name for path in (repository / "net").iterdir() if path.name.isdigit()] == ["1"]


def moving() -> np.ndarray:
    x = shifted_inputs()
    x[32:] += 5
    return x


def broken() -> np.ndarray:
    x = shifted_inputs()
    x[17, 0, 0, 0] = np.nan
    return x


@pytest.mark.parametrize(
    ("x", "code", "says"),
    [
        (
            shifted_inputs(31),
            1,
            "31 samples are too few: at least 32 are needed, so that their two halves can be compared",
        ),
        (shifted_inputs(0), 1, "0 samples are too few"),
        (np.zeros((20_001, 4, 5, 5), np.float32), 1, "20,001 samples are more than the 20,000 that can help"),
        (moving(), 1, "The first half of the samples is not like the second: at BatchNormalization 'bn' their means"),
        (3e38 * np.sign(shifted_inputs(64)), 1, "drive BatchNormalization 'bn' beyond what its numbers can hold"),
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
    before = file_contents(repository)

    found, _, err = normfold("adapt", "models/net", "--samples", "samples.npz", *dry)

    assert found == code
    assert err.startswith("error: ")
    assert says in " ".join(err.split())
    assert file_contents(repository) == before
    assert [path.name for path in (repository / "net").iterdir()] == ["1"]


def test_rejected_dry_run_shows_the_layers(normfold: RunCommand, repository: Path, tmp_path: Path) -> None:
    assert repository.exists()
    np.savez(tmp_path / "samples.npz", x=moving())

    code, out, _ = normfold("adapt", "models/net", "--samples", "samples.npz", "--dry-run")

    assert code == 1
    assert any(line.startswith("bn ") for line in out.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["models/none"], 2, "There is no model 'none' in 'models'; there are bare, damaged, net, relu."),
        (["models/.."], 2, "'models/..' is a folder, and no model"),
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
    before = file_contents(repository)

    found, _, err = normfold("adapt", arguments[0], "--samples", str(samples), *arguments[1:])

    assert (found, says in " ".join(err.replace("│", " ").split())) == (code, True)
    assert file_contents(repository) == before


@pytest.mark.slow
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
    assert "'bn1': its running_mean may be overridden by the caller (--freeze-inputs" in in_one_line(err)
    assert "--allow-partial leaves it" in in_one_line(err)
    assert [path.name for path in (tmp_path / "models" / "net").iterdir()] == ["1"]

    for again in ("2", "3"):  # an adapted version holds what training left of the others alone
        code, out, err = normfold(*asked, "--allow-partial")
        record = json.loads(out)
        assert (code, str(record["version"])) == (0, again)
        assert [layer["node"] for layer in record["layers"]] == ["bn0", "bn2"]
        assert "warning: The statistics of a layer cannot be replaced" in in_one_line(err)
        assert len(record["unchanged"]) == 1


@pytest.mark.slow
def test_fold_that_fails_verification_writes_no_version(
    normfold: RunCommand, repository: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file_contents(repository)
    monkeypatch.setattr("normfold.export.fold.batchnorm_parameters.DEFAULT_EPSILON", 1e-3)

    code, _, err = normfold("adapt", "models/net", "--samples", str(samples))

    assert code == 1
    assert "error: Output 'y' differs by" in err
    assert file_contents(repository) == before
    assert [path.name for path in (repository / "net").iterdir()] == ["1"]


def test_full_disk_for_the_activations_is_an_error(
    normfold: RunCommand, repository: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = file_contents(repository)
    monkeypatch.setattr(np, "save", full)

    code, _, err = normfold("adapt", "models/net", "--samples", str(samples))

    assert code == 3
    assert f"Cannot write {tempfile.gettempdir()!r}: no space left on device." in err
    assert file_contents(repository) == before


def test_adapt_finds_a_name_in_the_repository_of_the_environment(
    normfold: RunCommand, repository: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("adapt", "net", "--samples", str(samples), "--dry-run", "--json")
    assert normfold(*arguments, "--repository", str(repository))[0] == 0
    monkeypatch.setenv("NORMFOLD_REPOSITORY", str(repository))
    assert normfold(*arguments)[0] == 0
    code, _, err = normfold("adapt", "none/net", "--samples", str(samples))  # a folder in the argument goes first
    assert (code, "There is no folder 'none'" in err) == (2, True)
