from __future__ import annotations

import argparse
import collections
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from normfold.models.architectures.blocks import LinearBatchNorm
from normfold.models.errors import WeightsError, WeightsWarning
from normfold.models.weight_files.load import WeightsFile, load_weights


def make_network(seed: int = 0) -> LinearBatchNorm:
    torch.manual_seed(seed)
    network = LinearBatchNorm(3, 2)
    nn.init.normal_(network.norm.running_mean)
    return network


def same(network: nn.Module, tensors: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())


def load(network: nn.Module, path: Path, **options: Any) -> list[str]:
    """Load a file, and return what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", WeightsWarning)
        load_weights(network, WeightsFile(path, **options))
    return [str(one.message).removeprefix(f"{str(path)!r}: ") for one in caught]


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_safetensors_and_state_dicts_load_alike(tmp_path: Path) -> None:
    tensors = make_network(1).state_dict()
    save_file(tensors, tmp_path / "w.safetensors")
    torch.save(tensors, tmp_path / "w.pt")
    torch.save(tensors, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    for name in ("w.bin", "w.ckpt", "w.pth.tar"):
        torch.save(tensors, tmp_path / name)
    for name in ("w.safetensors", "w.pt", "w.pth", "w.bin", "w.ckpt", "w.pth.tar"):
        network = make_network()
        assert not same(network, tensors)
        load(network, tmp_path / name)
        assert same(network, tensors)


@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "model", "net", "weights", "params", "ema", "of_a_script"]
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "a.b."])
def test_nested_and_prefixed_state_dicts_load(tmp_path: Path, key: str, prefix: str) -> None:
    tensors = make_network(1).state_dict()
    content = {"epoch": 3, key: {prefix + name: value for name, value in tensors.items()}}
    network = make_network()
    notes = load(network, saved(tmp_path / "w.pt", content))
    assert same(network, tensors)
    shown = prefix.replace("_orig_mod.", "")
    expected = [f"names were loaded without their prefix {shown!r}."] if shown not in ("", "module.") else []
    assert notes == expected


def test_compiled_parts_of_a_network_load(tmp_path: Path) -> None:
    tensors = make_network(1).state_dict()
    content = {name.replace("norm.", "norm._orig_mod."): value for name, value in tensors.items()}
    network = make_network()
    load(network, saved(tmp_path / "w.pt", content))
    assert same(network, tensors)


def test_checkpoint_of_torchvisions_training_script_loads(tmp_path: Path) -> None:
    """References/classification: beside the network the average of its weights, an AveragedModel."""
    network, averaged = make_network(1), torch.optim.swa_utils.AveragedModel(make_network(2))
    content = {
        "model": network.state_dict(),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "lr_scheduler": {"last_epoch": 3, "_last_lr": [0.1]},
        "epoch": 3,
        "args": argparse.Namespace(model="resnet18", lr=0.1),
        "model_ema": averaged.state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
    }
    path, own = saved(tmp_path / "model_3.pth", content), make_network()
    assert load(own, path) == ["'model' was loaded; there is also 'model_ema' (`weights_key`)."]
    assert same(own, network.state_dict())
    assert load(own, path, key="model_ema")[1:] == []
    assert same(own, averaged.module.state_dict())


def test_checkpoint_of_timms_training_script_loads(tmp_path: Path) -> None:
    raw, average = (make_network(seed).state_dict() for seed in (1, 2))
    content = {
        "epoch": 9,
        "arch": "resnet18",
        "state_dict": raw,
        "optimizer": {"state": {}, "param_groups": [{"lr_scale": 0.5}]},
        "version": 2,
        "args": argparse.Namespace(model="resnet18", opt="lamb"),
        "amp_scaler": {"scale": 1.0},
        "state_dict_ema": {f"module.{name}": value for name, value in average.items()},
        "metric": 0.9,
    }
    path, own = saved(tmp_path / "model_best.pth.tar", content), make_network()
    assert load(own, path) == ["'state_dict' was loaded; there is also 'state_dict_ema' (`weights_key`)."]
    assert same(own, raw)
    load(own, path, key="state_dict_ema")
    assert same(own, average)


def test_folder_loads_by_the_file_in_it(tmp_path: Path) -> None:
    tensors = make_network(1).state_dict()
    for file in ("weights.safetensors", "model.safetensors"):
        folder = tmp_path / file.partition(".")[0]
        folder.mkdir()
        save_file(tensors, folder / file)
        network = make_network()
        load(network, folder)
        assert same(network, tensors)
    (tmp_path / "none").mkdir()
    with pytest.raises(WeightsError, match=r"none' is a folder without weights; it has none of weights\.safetensors, "):
        load(make_network(), tmp_path / "none")


def test_averaged_model_loads_without_its_counter(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(make_network(1))
    network = make_network()
    assert load(network, saved(tmp_path / "w.pt", averaged.state_dict())) == []
    assert same(network, averaged.module.state_dict())


@pytest.mark.parametrize(("raw", "average"), [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("net", "ema")])
def test_averaged_weights_beside_the_raw_are_named_and_loaded_if_asked(tmp_path: Path, raw: str, average: str) -> None:
    first, second = (make_network(seed).state_dict() for seed in (1, 2))
    path = saved(tmp_path / "w.pt", {raw: first, average: second, "optimizer": {"state": {0: {"step": 1}}}})
    network = make_network()
    assert load(network, path) == [f"{raw!r} was loaded; there is also {average!r} (`weights_key`)."]
    assert same(network, first)
    load(network, path, key=average)
    assert same(network, second)
    with pytest.raises(WeightsError, match=f"has no state dict 'other'; it has '{raw}', '{average}'"):
        load(network, path, key="other")


def test_state_dict_is_chosen_among_unusual_keys_only_if_asked(tmp_path: Path) -> None:
    first, second = (make_network(seed).state_dict() for seed in (1, 2))
    path = saved(tmp_path / "w.pt", {"student": first, "teacher": {"weights": second}})
    with pytest.raises(WeightsError, match="several state dicts: 'student', 'teacher.weights'; choose one"):
        load(make_network(), path)
    network = make_network()
    load(network, path, key="teacher.weights")
    assert same(network, second)


def test_prefix_is_chosen_among_several_only_if_asked(tmp_path: Path) -> None:
    first, second = (make_network(seed).state_dict() for seed in (1, 2))
    content = {f"student.{n}": v for n, v in first.items()} | {f"teacher.{n}": v for n, v in second.items()}
    path = saved(tmp_path / "w.pt", content)
    with pytest.raises(WeightsError, match=r"several prefixes: 'student\.', 'teacher\.'; choose `strip_prefix`"):
        load(make_network(), path)
    network = make_network()
    notes = load(network, path, prefix="teacher.")
    assert same(network, second)
    assert notes[1].startswith("not loaded, since the network has no such tensor: 'student.")
    with pytest.raises(WeightsError, match="has no tensor with the prefix 'x.'; its first is 'student"):
        load(make_network(), path, prefix="x.")


def test_lightning_checkpoint_loads_without_its_other_tensors(tmp_path: Path) -> None:
    tensors = make_network(1).state_dict()
    content = {
        "state_dict": {f"model.{n}": v for n, v in tensors.items()} | {"criterion.weight": torch.ones(2)},
        "hyper_parameters": argparse.Namespace(lr=0.1, layers=collections.defaultdict(list, a=[1])),
        "pytorch-lightning_version": "2.0",
        "callbacks": {"EarlyStopping{'monitor': 'loss'}": {"best_score": torch.tensor(1.0)}},
    }
    network = make_network()
    notes = load(network, saved(tmp_path / "w.ckpt", content))
    assert same(network, tensors)
    assert notes == [
        "names were loaded without their prefix 'model.'.",
        "not loaded, since the network has no such tensor: 'criterion.weight'.",
    ]


def test_partial_loads_what_fits_and_names_the_rest(tmp_path: Path) -> None:
    tensors = dict(make_network(1).state_dict())
    del tensors["norm.running_var"]
    tensors |= {"head.weight": torch.ones(3), "norm.bias": torch.zeros(5)}
    network, own = make_network(), make_network().state_dict()
    notes = load(network, saved(tmp_path / "w.pt", tensors), partial=True)
    assert notes == [
        "not loaded, since the network has no such tensor: 'norm.bias', 'head.weight'.",
        "3 of 5 tensors were loaded: 'weight_layer.weight', 'norm.weight', 'norm.running_mean'.",
        "the network keeps its own 'norm.bias', 'norm.running_var'.",
    ]
    assert torch.equal(network.norm.running_mean, tensors["norm.running_mean"])
    assert torch.equal(network.norm.bias, own["norm.bias"])
    with pytest.raises(WeightsError, match="holds no tensor of the network"):
        load(network, saved(tmp_path / "w.pt", {"head.weight": torch.ones(3)}), partial=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_with_a_word(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {n: v.to(dtype) if v.is_floating_point() else v for n, v in make_network(1).state_dict().items()}
    network = make_network()
    name = str(dtype).removeprefix("torch.")
    assert load(network, saved(tmp_path / "w.pt", tensors)) == [
        f"tensors in {name} were converted to the network's float32."
    ]
    assert all(value.dtype == torch.float32 for value in network.parameters())
    assert torch.equal(network.norm.weight, tensors["norm.weight"].float())


def test_shards_of_safetensors_load_by_their_index(tmp_path: Path) -> None:
    tensors = dict(make_network(1).state_dict())
    names = list(tensors)
    shards = {"a.safetensors": names[:2], "b.safetensors": names[2:]}
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, tmp_path / file)
    places = {name: file for file, own in shards.items() for name in own}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    network = make_network()
    load(network, index)
    assert same(network, tensors)
    for wrong, message in (
        ({names[0]: "../a.safetensors"}, "names a file outside its folder"),
        ({"other": "a.safetensors"}, "names tensor 'other', which 'a.safetensors' lacks"),
        ({names[0]: "c.safetensors"}, "c.safetensors' cannot be read: No such file"),
        ([], "is not an index"),
    ):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(WeightsError, match=message):
            load(network, index)


def test_counter_of_batches_may_be_missing(tmp_path: Path) -> None:
    tensors = {name: value for name, value in make_network(1).state_dict().items() if "tracked" not in name}
    save_file(tensors, tmp_path / "w.safetensors")
    load(make_network(), tmp_path / "w.safetensors")


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
        load(network, tmp_path / "w.safetensors")
    assert same(network, before)


def test_missing_damaged_and_other_files_are_named(tmp_path: Path) -> None:
    tensors = make_network(1).state_dict()
    for suffix in (".safetensors", ".pt"):
        path = tmp_path / f"w{suffix}"
        with pytest.raises(WeightsError, match=f"w{suffix}' cannot be read: No such file"):
            load(make_network(), path)
        save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
        whole = path.read_bytes()
        for damaged in (b"", whole[:50], whole[:-20], b"hello" * 20):
            path.write_bytes(damaged)
            with pytest.raises(WeightsError, match=f"w{suffix}' (is|holds)"):
                load(make_network(), path)
    with pytest.raises(WeightsError, match=r"unknown suffix; give a .safetensors, .*or .pth.tar file"):
        load(make_network(), tmp_path / "w.h5")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds no state dict"):
        load(make_network(), tmp_path / "list.pt")
