"""A run that starts from a weights file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from normfold.models.architectures.blocks import ConvTransposeBatchNorm, LinearBatchNorm
from normfold.models.errors import WeightsError
from normfold.models.fine_tuning.initial_weights import describe_weights, say_what_was_taken, start_from
from normfold.models.training.checkpoint import make_run_config
from normfold.models.training.train import fit
from normfold.models.weight_files.load import WeightsFile
from normfold.models.weight_files.safetensors_file import read_safetensors
from tests.support.training import MakeRun, StopAfter


class Classifier(nn.Module):
    """A backbone and a head of some size."""

    def __init__(self, outputs: int, width: int = 4, head: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = LinearBatchNorm(3, width)
        self.inner = nn.Linear(width, width)
        self.head = nn.Linear(width, outputs) if head is None else head


def start(network: nn.Module, path: Path, outputs: int, **options: Any) -> Any:
    return start_from(network, describe_weights(WeightsFile(path, **options)), outputs)


def saved(network: nn.Module, path: Path, **changes: torch.Tensor) -> Path:
    torch.save({"state_dict": dict(network.state_dict()) | changes}, path)
    return path


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (lambda: nn.Linear(4, 3), lambda: nn.Linear(4, 10)),
        (lambda: nn.Linear(4, 3, bias=False), lambda: nn.Linear(4, 1, bias=False)),
        (lambda: nn.Conv2d(4, 3, 1), lambda: nn.Conv2d(4, 21, 1)),
        (lambda: nn.ConvTranspose2d(4, 3, 2), lambda: nn.ConvTranspose2d(4, 21, 2)),
        (
            lambda: nn.ModuleList([nn.Linear(4, 3), nn.Linear(2, 3)]),
            lambda: nn.ModuleList([nn.Linear(4, 9), nn.Linear(2, 9)]),
        ),
    ],
)
def test_head_of_another_size_is_new_and_everything_else_taken(tmp_path: Path, new: Any, old: Any) -> None:
    trained, network = Classifier(0, head=old()), Classifier(0, head=new())
    own = {name: value.clone() for name, value in network.state_dict().items()}
    found = start(network, saved(trained, tmp_path / "w.pt"), 3)
    assert set(found.new) == {name for name in own if name.startswith("head.")}
    for name, value in network.state_dict().items():
        assert torch.equal(value, own[name] if name in found.new else trained.state_dict()[name])
    assert f"tensors were taken from {tmp_path / 'w.pt'}; new are 'head." in say_what_was_taken(found)


def test_head_of_the_same_size_is_taken(tmp_path: Path) -> None:
    path = saved(Classifier(3), tmp_path / "w.pt")
    found = start(Classifier(3), path, 3)
    assert (found.new, found.taken) == ((), 9)
    assert say_what_was_taken(found) == f"All 9 tensors were taken from {path}."


@pytest.mark.parametrize(
    ("network", "outputs"),
    [
        (Classifier(3, width=3), 3),  # an inner layer has as many outputs as the head
        (Classifier(4, width=5), 4),
        (Classifier(4, head=LinearBatchNorm(4, 3)), 3),
        (Classifier(4, head=ConvTransposeBatchNorm(4, 3)), 3),
        (Classifier(3, head=nn.Linear(6, 3)), 3),
    ],
)
def test_anything_else_that_differs_is_refused_with_the_way_out(
    tmp_path: Path, network: nn.Module, outputs: int
) -> None:
    path = saved(Classifier(10), tmp_path / "w.pt")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(WeightsError, match=r"(lacks|holds) tensor .*; is it of another network\? `partial` loads"):
        start(network, path, outputs)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_without_a_head_are_loaded_in_part(tmp_path: Path) -> None:
    """As backbones are published: bare names, for a network that has them below a name of its own."""
    trained, network = LinearBatchNorm(3, 4), Classifier(3)
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"lacks tensor 'backbone.weight_layer.weight' and 8 more"):
        start(network, tmp_path / "w.safetensors", 3)
    with pytest.warns(UserWarning, match=r"with the prefix 'backbone\.', which they have in the network"):
        found = start(network, tmp_path / "w.safetensors", 3, partial=True)
    assert set(found.new) == {"inner.weight", "inner.bias", "head.weight", "head.bias"}
    assert torch.equal(network.backbone.weight_layer.weight, trained.weight_layer.weight)


def test_prefix_is_found_where_the_head_is_missing(tmp_path: Path) -> None:
    tensors = {f"model.{name}": value for name, value in Classifier(3).state_dict().items() if "head" not in name}
    torch.save({"state_dict": tensors}, tmp_path / "w.ckpt")
    with pytest.raises(WeightsError, match=r"lacks tensor 'head.weight' and 1 more"):
        start(Classifier(3), tmp_path / "w.ckpt", 3)
    with pytest.warns(UserWarning, match=r"without their prefix 'model\.'"):
        assert start(Classifier(3), tmp_path / "w.ckpt", 3, partial=True).new == ("head.weight", "head.bias")


def test_file_is_recorded_by_its_sha256(tmp_path: Path) -> None:
    path = saved(Classifier(3), tmp_path / "w.pt")
    found = describe_weights(WeightsFile(path))
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.in_words == f"w.pt (sha256 {found.sha256[:12]}…)"
    shards = {"a.safetensors": ["head.bias"], "b.safetensors": ["head.weight"]}
    tensors = Classifier(3).state_dict()
    for file, names in shards.items():
        save_file({name: tensors[name] for name in names}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, names in shards.items() for name in names}}))
    joined = b"".join((tmp_path / file).read_bytes() for file in shards)
    assert describe_weights(WeightsFile(index)).sha256 == hashlib.sha256(joined).hexdigest()
    for missing in (tmp_path / "none.pt", tmp_path):
        if missing == tmp_path:
            index.unlink()
        with pytest.raises(WeightsError, match=r"cannot be read: No such file|is a folder without weights"):
            describe_weights(WeightsFile(missing))


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_run_starts_from_another_and_resumes_without_its_weights(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run("mlp", {"widths": [8]}, epochs=1)
    fit(config, dataset, tmp_path / "first")
    assert config.data is not None
    assert config.train is not None
    settings = config.train.model_copy(update={"epochs": 3, "lr": 1e-6})
    initial = describe_weights(WeightsFile(tmp_path / "first"))

    def begin(given: Any) -> Any:
        return make_run_config("mlp", {"widths": [8]}, config.data, dataset, settings, given)

    whole = fit(begin(initial), dataset, tmp_path / "whole")
    taken = read_safetensors(tmp_path / "first" / "weights.safetensors")
    trained = read_safetensors(tmp_path / "whole" / "weights.safetensors")
    for name, value in taken.items():
        if value.is_floating_point() and "running" not in name:
            assert torch.allclose(value, trained[name], atol=1e-4)
    with pytest.raises(KeyboardInterrupt):
        fit(begin(initial), dataset, tmp_path / "broken", callback=StopAfter(1))
    (tmp_path / "first" / "weights.safetensors").unlink()
    fit(begin(initial), dataset, tmp_path / "broken", resume=True)
    for name in ("weights.safetensors", "config.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (whole.folder / name).read_bytes()
    assert whole.config.initial_weights is not None
    assert whole.config.initial_weights.taken == len([name for name in taken if "tracked" not in name])
    assert whole.config.card.origin.endswith(f", starting from first (sha256 {initial.sha256[:12]}…)")
    assert whole.config.card.initial_weights is not None
    assert whole.config.card.initial_weights.sha256 == initial.sha256
    with pytest.raises(Exception, match="did not start from these `weights`"):
        fit(begin(initial.model_copy(update={"sha256": "0"})), dataset, tmp_path / "broken", resume=True)
