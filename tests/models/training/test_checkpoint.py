from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from normfold.contract.atomic_write import write_atomically
from normfold.models.architectures.registry import build
from normfold.models.errors import ArchitectureError, DataError, WeightsError
from normfold.models.training.checkpoint import load_checkpoint, load_config, save_checkpoint
from tests.support.training import MakeRun


@pytest.fixture
def folder(tmp_path: Path, make_run: MakeRun) -> Path:
    config, _ = make_run()
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "run", build(config.architecture), config)
    return tmp_path / "run"


def test_checkpoint_loads_bit_for_bit_in_eval_mode(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run()
    network = build(config.architecture).eval()
    save_checkpoint(tmp_path / "run", network, config)
    loaded = load_checkpoint(tmp_path / "run")
    assert loaded.config == config
    assert not any(module.training for module in loaded.network.modules())
    x = torch.from_numpy(dataset.tensors(dataset.splits.test))
    assert torch.equal(loaded.network(x), network(x))


def test_card_of_a_run_has_preprocessing_labels_and_logits(folder: Path, make_run: MakeRun) -> None:
    card, dataset = load_config(folder).card, make_run()[1]
    assert card.preprocessing == dataset.preprocessing
    assert card.labels == ("0", "1", "2")
    assert card.logits == ("logits",)
    assert "convnet" in card.origin


@pytest.mark.parametrize("option", ["\udcff", json.loads("[" * 300 + "]" * 300)])
def test_config_that_json_cannot_record_is_refused_before_training(make_run: MakeRun, option: object) -> None:
    with pytest.raises(DataError, match="'mlp' on .* cannot be recorded"):
        make_run("mlp", {"activation": option})


def test_loading_does_not_change_the_random_state(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_checkpoint(folder)
    assert torch.equal(torch.rand(3), expected)


def change_config(folder: Path, **fields: object) -> None:
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | fields))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "weights.safetensors").unlink(), "weights.safetensors' cannot be read: No such file"),
        (lambda f: (f / "config.json").unlink(), "config.json' cannot be read: No such file"),
        (lambda f: (f / "config.json").write_text("{"), "config.json' is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "schema version None"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json' is not a config: .* nested too deeply"),
        (lambda f: change_config(f, schema_version=2), "schema version 2; this normfold reads 1"),
        (lambda f: change_config(f, epoch="late"), "wrong field 'epoch'"),
        (lambda f: change_config(f, surprise=1), "wrong field 'surprise'"),
        (
            lambda f: (f / "weights.safetensors").write_bytes((f / "weights.safetensors").read_bytes()[:-9]),
            "weights.safetensors' is damaged",
        ),
        (lambda f: [file.unlink() for file in f.iterdir()] and f.rmdir(), "is not a run folder"),
    ],
)
def test_damaged_checkpoint_is_reported_with_the_name_of_the_file(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(folder)


def test_config_of_another_network_is_reported_with_the_name_of_the_tensor(folder: Path) -> None:
    architecture = json.loads((folder / "config.json").read_text())["architecture"]
    architecture["options"]["widths"] = [4, 9]
    change_config(folder, architecture=architecture)
    with pytest.raises(WeightsError, match="holds tensor 'stages.2.weight_layer.weight' of shape"):
        load_checkpoint(folder)
    change_config(folder, architecture=architecture | {"name": "vgg"})
    with pytest.raises(ArchitectureError, match="'vgg'"):
        load_checkpoint(folder)


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_failed_write_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
