from __future__ import annotations

from pathlib import Path

import pytest

from normfold import train
from normfold.models.errors import ConfigFileError
from normfold.models.training.outputs.config_file import read_config_file


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.filterwarnings("ignore:The running statistics differ")  # after six steps they do
def test_config_of_a_run_reproduces_it_and_arguments_override_it(tmp_path: Path, images: Path) -> None:
    first = train(
        tmp_path / "first",
        arch="convnet",
        arguments={"widths": [4]},
        data=f"npz:{images}",
        epochs=2,
        batch_size=40,
        lr=0.02,
        ema=0.9,
        keep=1,
    )
    again = train(tmp_path / "again", config=first.folder)
    for name in ("weights.safetensors", "config.json"):
        assert (again.folder / name).read_bytes() == (first.folder / name).read_bytes()
    other = train(tmp_path / "other", config=first.folder / "config.json", epochs=1, arguments={"widths": [6]})
    assert other.config.train == first.config.train.model_copy(update={"epochs": 1})
    assert other.config.architecture.options == {"widths": [6]}


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json"])
def test_file_may_leave_out_parts_and_fields(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"settings.{suffix}"
    path.write_text('{"train": {"epochs": 3, "lr": 0.01}}' if suffix == "json" else "train:\n  epochs: 3\n  lr: 1e-2\n")
    config = read_config_file(path, "mlp")
    assert config.train is not None
    assert config.data is not None
    assert (config.train.epochs, config.train.lr, config.train.batch_size) == (3, 0.01, 64)
    assert (config.data.source, config.architecture.name) == ("digits", "mlp")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "", "is neither a run folder nor a file .yaml, .yml or .json"),
        ("a.json", "{", "is not JSON"),
        ("a.yaml", "train: [", "is not YAML"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "is not YAML"),
        ("a.json", "[1]", "is no table of names and values"),
        ("a.json", "[" * 100000, "nested too deeply"),
        ("a.yaml", "epochs: 3", "has an unknown part 'epochs'; the parts are architecture, data, train"),
        ("a.yaml", "train: 3", "has a wrong part 'train'"),
        ("a.yaml", "train: {epoch: 3}", "has a wrong field 'train.epoch'"),
        ("a.yaml", "train: {epochs: many}", "has a wrong field 'train.epochs'"),
        ("a.yaml", "architecture: {name: [1]}", "has a wrong field 'architecture.name'"),
        ("a.yaml", "data: {test_fraction: 2}", "has a wrong field 'data.test_fraction'"),
    ],
)
def test_wrong_file_is_one_sentence(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigFileError) as caught:
        read_config_file(tmp_path / name, "mlp")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigFileError, match="cannot be read: No such file"):
            read_config_file(path, "mlp")
