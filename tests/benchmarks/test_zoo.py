"""The benchmark over networks of other packages: its list, its file of results, and what counts as a fault."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.fold.zoo.__main__ import is_asked_for, is_complete, outcome
from benchmarks.fold.zoo.networks import Network, read_networks
from benchmarks.fold.zoo.record import Record, append_record, read_records
from benchmarks.fold.zoo.report import print_report

GOOD = Record(
    network="timm resnet18 3x64x64",
    batchnorm=20,
    nodes=[69, 49],
    left={"normfold": 0, "onnxruntime": 0, "onnxsim": 0, "onnxslim": 0},
    unchanged_again=True,
    error_over_noise=1.2,
    verified=True,
    ratio=[1.0, 0.99, 1.01],
    seconds=0.1,
)


def test_list_holds_over_a_hundred_networks_each_once() -> None:
    networks = read_networks()
    assert len(networks) >= 100
    assert len({network.label for network in networks}) == len(networks)
    assert all(Network.of(str(network)) == network for network in networks)


def test_network_is_asked_for_by_package_name_or_both() -> None:
    network = Network.of("timm resnet18 3x64x64")
    assert network.shape == (2, 3, 64, 64)
    assert is_asked_for(network, None)
    assert all(is_asked_for(network, ["vgg", name]) for name in ("timm", "resnet18", "timm/resnet18"))
    assert not is_asked_for(network, ["resnet", "torchvision/resnet18"])


def test_results_are_read_again_but_for_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "results" / "zoo.jsonl"
    assert read_records(path) == {}
    append_record(path, replace(GOOD, failed="fold: killed"))
    append_record(path, GOOD)
    with path.open("a") as file:
        file.write('{"network": "timm vgg')
    assert read_records(path) == {GOOD.network: GOOD}


@pytest.mark.parametrize(
    ("record", "rounds", "complete"),
    [
        (None, 0, False),
        (GOOD, 40, True),
        (replace(GOOD, failed="source: no memory"), 0, False),
        (replace(GOOD, ratio=None), 0, True),
        (replace(GOOD, ratio=None), 40, False),
    ],
)
def test_network_is_measured_again_where_something_is_missing(
    record: Record | None, rounds: int, complete: bool
) -> None:
    assert is_complete(record, rounds) is complete


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (replace(GOOD, left=GOOD.left | {"normfold": 3, "onnxslim": 4}), "3 left, {'onnxruntime': 3, 'onnxsim': 3}"),
        (replace(GOOD, unchanged_again=False), "a second fold changes it"),
        (replace(GOOD, verified=False), "error 1.2 times the noise: not verified"),
        (replace(GOOD, ratio=[1.05, 1.04, 1.06]), "[1.05, 1.04, 1.06] times the source's time, allowed 1.03"),
        (replace(GOOD, failed="fold: exit code -11: "), "fold: exit code -11: "),
    ],
)
def test_fault_of_a_fold_is_found(record: Record, fault: str) -> None:
    assert record.faults() == [fault]
    assert fault in outcome(record)


@pytest.mark.parametrize(
    "record", [GOOD, replace(GOOD, ratio=[1.05, 1.02, 1.08]), Record(GOOD.network, failed="source: no such network")]
)
def test_network_within_its_limits_or_not_exported_is_no_fault(record: Record) -> None:
    assert record.faults() == []


def test_report_holds_totals_and_what_was_kept_for_which_reason() -> None:
    behind = replace(
        GOOD, network="timm densenet121 3x64x64", left={"normfold": 62, "onnxruntime": 60}, kept={"nonlinear": 62}
    )
    failed = Record("timm vgg 3x64x64", failed="source: no such network")
    console = Console(file=io.StringIO(), width=160, record=True)
    print_report(console, [GOOD, behind, failed])
    text = console.export_text()
    assert "2 networks with 40 BatchNormalization nodes" in text
    assert "Normfold leaves 62, in 1 networks" in text
    assert "onnxruntime leaves 60 in the 2 networks that it reads, Normfold 62; fewer in 1" in text
    assert "onnxsim leaves 0 in the 1 networks that it reads, Normfold 0; fewer in 0" in text
    assert "timm densenet121 3x64x64 62" in text
    assert "timm vgg 3x64x64: not measured: source: no such network" in text
