"""The benchmark of GPUs: its order, its lines and what it says without a GPU, run on the CPU with small networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu import precision
from benchmarks.gpu.machine import find_missing
from benchmarks.gpu.precision import FURTHER, MAIN, SUBJECTS, median_seconds, parts_of, print_precisions
from benchmarks.gpu.ways import Variant, open_variant, open_way


@pytest.fixture
def compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch.compile return the network as it is: its compiler takes a minute."""
    import torch

    def unchanged(network: Any, mode: str) -> Any:
        assert mode == "reduce-overhead"
        return network

    monkeypatch.setattr(torch, "compile", unchanged)


def test_way_of_a_provider_that_is_not_built_in_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    tensorrt = Variant("TensorRT", is_float16=True, provider="tensorrt")
    with pytest.raises(RuntimeError, match="this ONNX Runtime is built without TensorrtExecutionProvider"):
        open_variant(tensorrt, tmp_path / "network.onnx", "cuda")


@pytest.mark.slow
@pytest.mark.usefixtures("compile_nothing")
def test_precision_prints_a_line_for_each_way_and_for_one_that_cannot_be_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = Variant("broken", is_float16=False, provider="none")
    monkeypatch.setattr(precision, "FURTHER", (broken,))
    monkeypatch.setattr(precision, "ROWS", (1,))

    def fail_if_broken(way: Any, *more: Any) -> Any:
        if way == broken:
            raise RuntimeError("no such provider\nmore")
        return open_way(way, *more)

    monkeypatch.setattr(precision, "open_way", fail_if_broken)
    print_precisions(tmp_path, 1, "cpu", minutes=5)
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.startswith("network, rows, way")
    assert lines.pop() == "ConvNet,  1 row, broken: cannot be run (no such provider)"
    assert [line[:52].rstrip() for line in lines] == [f"ConvNet,  1 row, {way.name}" for way in MAIN]
    decibels = [float(line.split()[-1]) for line in lines]
    assert decibels[0] == 200.0
    assert all(40 < value < 100 for value in decibels[1:])


def test_precision_names_what_is_left_out_after_its_minutes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    print_precisions(tmp_path, 1, "cuda", minutes=-1)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 4 * (len(MAIN) + len(FURTHER))
    assert lines[0] == "ResNet-50,  1 row, float32: not measured, -1 minutes are over"


def test_precision_begins_with_the_main_ways_of_all_networks() -> None:
    ways = [way for _, _, way in parts_of(SUBJECTS["cuda"])]
    assert ways == [*MAIN] * 4 + [*FURTHER] * 4


def test_medians_are_of_runs_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    seconds = {"device": (3.0, 1.0, 2.0), "host": (9.0, 7.0, 8.0)}

    def seconds_of(run: Any, _: float) -> float:
        name: str = run()
        calls.append(name)
        return seconds[name][calls.count(name) - 1]

    monkeypatch.setattr(precision, "seconds_of", seconds_of)
    assert median_seconds((lambda: "device", lambda: np.array("host").item()), 3, 0.1) == [2, 8]
    assert calls == ["device", "host"] * 3


def test_graphs_are_captured_only_where_addresses_stay() -> None:
    for way in (*MAIN, *FURTHER):
        if isinstance(way, Variant):
            assert way.keeps_addresses == ("enable_cuda_graph" in way.options)


@pytest.mark.parametrize(
    ("gpu", "providers", "named"),
    [
        ("NVIDIA H100, 580.1", ["CUDAExecutionProvider", "CPUExecutionProvider"], ()),
        ("", ["CUDAExecutionProvider"], ("an NVIDIA GPU",)),
        ("NVIDIA H100, 580.1", ["CPUExecutionProvider"], ("the extra 'gpu'",)),
        ("", ["CPUExecutionProvider"], ("an NVIDIA GPU", "the extra 'gpu'")),
    ],
)
def test_missing_parts_are_named_in_one_sentence(gpu: str, providers: list[str], named: tuple[str, ...]) -> None:
    sentence = find_missing(gpu, providers)
    assert bool(sentence) == bool(named)
    assert all(name in sentence for name in named)
    assert "\n" not in sentence


@pytest.mark.parametrize("options", [[], ["--precision"]])
def test_benchmark_without_a_gpu_ends_with_a_sentence(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench-gpu", *options])
    monkeypatch.setattr(benchmark, "gpu_line", lambda: "")
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert str(ended.value).startswith("This benchmark needs an NVIDIA GPU with its driver")


@pytest.mark.slow
def test_benchmark_of_the_service_runs_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench-gpu", "--device", "cpu", "--seconds", "0.2", "--rounds", "1"])
    monkeypatch.setattr("benchmarks.gpu.service.CONNECTIONS", (1,))
    monkeypatch.setattr(benchmark, "ROWS", (1, 2))
    benchmark.main()
    printed = capsys.readouterr().out
    assert printed.startswith("no GPU is used, and the times say nothing; ")
    assert "rows at once\nconnections" in printed
    assert float(printed.splitlines()[-1].split()[1]) > 0
