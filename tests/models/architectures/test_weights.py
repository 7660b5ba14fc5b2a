from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from normfold.models.architectures.blocks import LinearBatchNorm
from normfold.models.architectures.weights import load_weights
from normfold.models.errors import WeightsError


def make_network(seed: int = 0) -> LinearBatchNorm:
    torch.manual_seed(seed)
    network = LinearBatchNorm(3, 2)
    nn.init.normal_(network.norm.running_mean)
    return network


def same(network: nn.Module, tensors: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())


def test_safetensors_and_state_dicts_load_alike(tmp_path: Path) -> None:
    tensors = make_network(1).state_dict()
    save_file(tensors, tmp_path / "w.safetensors")
    torch.save(tensors, tmp_path / "w.pt")
    torch.save(tensors, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "w.pt", "w.pth"):
        network = make_network()
        assert not same(network, tensors)
        load_weights(network, tmp_path / name)
        assert same(network, tensors)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_nested_and_prefixed_state_dicts_load(tmp_path: Path, key: str, prefix: str) -> None:
    tensors = make_network(1).state_dict()
    content = {"epoch": 3, key: {prefix + name: value for name, value in tensors.items()}}
    torch.save(content, tmp_path / "w.pt")
    network = make_network()
    load_weights(network, tmp_path / "w.pt")
    assert same(network, tensors)


def test_counter_of_batches_may_be_missing(tmp_path: Path) -> None:
    tensors = {name: value for name, value in make_network(1).state_dict().items() if "tracked" not in name}
    save_file(tensors, tmp_path / "w.safetensors")
    load_weights(make_network(), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.running_var"), "lacks tensor 'norm.running_var', which the network has"),
        (lambda t: t.update(extra=torch.zeros(1)), "holds tensor 'extra', which the network lacks"),
        (
            lambda t: t.update({"norm.bias": torch.zeros(5)}),
            r"tensor 'norm.bias' of shape \[5\], the network's \[2\]",
        ),
    ],
)
def test_weights_of_another_network_are_refused_and_none_is_loaded(
    tmp_path: Path, change: object, message: str
) -> None:
    tensors = dict(make_network(1).state_dict())
    change(tensors)
    save_file(tensors, tmp_path / "w.safetensors")
    network = make_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_weights(network, tmp_path / "w.safetensors")
    assert same(network, before)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code of the file ran')",)


def test_torch_file_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Trap()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="could run code"):
        load_weights(make_network(), tmp_path / "w.pt")
    torch.save(make_network(), tmp_path / "whole.pt")
    with pytest.raises(WeightsError, match=r"Save network.state_dict\(\) alone"):
        load_weights(make_network(), tmp_path / "whole.pt")


def test_missing_damaged_and_other_files_are_named(tmp_path: Path) -> None:
    tensors = make_network(1).state_dict()
    for suffix in (".safetensors", ".pt"):
        path = tmp_path / f"w{suffix}"
        with pytest.raises(WeightsError, match=f"w{suffix}' cannot be read: No such file"):
            load_weights(make_network(), path)
        save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
        whole = path.read_bytes()
        for damaged in (b"", whole[:50], whole[:-20], b"hello" * 20):
            path.write_bytes(damaged)
            with pytest.raises(WeightsError, match=f"w{suffix}' (is|holds)"):
                load_weights(make_network(), path)
    with pytest.raises(WeightsError, match=r"give a .safetensors, .pt or .pth file"):
        load_weights(make_network(), tmp_path / "w.h5")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds no state dict"):
        load_weights(make_network(), tmp_path / "list.pt")
