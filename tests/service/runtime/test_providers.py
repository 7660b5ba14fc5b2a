"""What each provider is asked for, as far as that can be told without its hardware."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from normfold.service.runtime.providers import cuda, openvino, tensorrt
from normfold.service.runtime.providers.ort_messages import first_line, plain
from normfold.service.runtime.providers.placement import describe_placement
from normfold.service.runtime.providers.session_request import Wish
from normfold.service.runtime.providers.table import AUTO, AUTO_ORDER, PROVIDERS, our_name
from normfold.service.runtime.session_factory import open_session
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter

NOWHERE = Path("digits/1/model.onnx")


def test_every_provider_of_the_settings_is_in_the_table() -> None:
    assert {*PROVIDERS, AUTO} == set(get_args(Settings.model_fields["provider"].annotation))
    assert set(AUTO_ORDER) <= PROVIDERS.keys()
    assert "tensorrt" not in AUTO_ORDER


def test_names_go_both_ways() -> None:
    assert all(our_name(provider.onnx_name) == name for name, provider in PROVIDERS.items())
    assert our_name("OtherExecutionProvider") == "OtherExecutionProvider"


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))]
)
def test_warmed_sizes_are_powers_of_two_and_the_largest(largest: int, sizes: tuple[int, ...]) -> None:
    assert cuda.warmed_sizes(largest) == sizes


def test_results_are_not_rounded_unless_somebody_asks() -> None:
    assert cuda.options(Wish(NOWHERE))["use_tf32"] == "0"
    assert tensorrt.options(Wish(NOWHERE))["trt_fp16_enable"] == "False"
    assert openvino.options(Wish(NOWHERE))["precision"] == "FP32"
    assert openvino.options(Wish(NOWHERE, options={"device_type": "GPU"}))["precision"] == "ACCURACY"


def test_openvino_runs_on_the_cpu_with_our_threads_unless_told_otherwise() -> None:
    assert openvino.options(Wish(NOWHERE, threads=3)) == {
        "device_type": "CPU",
        "num_of_threads": "3",
        "precision": "FP32",
    }
    assert openvino.runs_on_host(Wish(NOWHERE))
    assert not openvino.runs_on_host(Wish(NOWHERE, options={"device_type": "GPU.1"}))


def test_openvino_keeps_what_it_builds_for_a_gpu(tmp_path: Path) -> None:
    assert "cache_dir" not in openvino.options(Wish(NOWHERE, cache=tmp_path))
    chosen = openvino.options(Wish(NOWHERE, options={"device_type": "GPU"}, cache=tmp_path))
    assert Path(chosen["cache_dir"]).is_dir()


def test_engines_are_never_shared_between_networks_or_options(bundles: BundleWriter, tmp_path: Path) -> None:
    one, other = (bundles.digits(version, bias=float(version)) / "model.onnx" for version in (1, 2))
    folders = [
        tensorrt.engine_folder(tmp_path, wish)
        for wish in (
            Wish(one),
            Wish(other),
            Wish(one, options={"trt_fp16_enable": "True"}),
            Wish(one, device_id=1),
        )
    ]
    assert len(set(folders)) == 4
    assert tensorrt.engine_folder(tmp_path, Wish(one)) == folders[0]


def test_no_cache_keeps_no_engine() -> None:
    assert "trt_engine_cache_enable" not in tensorrt.options(Wish(NOWHERE))


def test_an_engine_is_built_for_the_smallest_and_the_largest_batch_before_others() -> None:
    assert tensorrt.first_sizes(16) == (1, 16)
    assert tensorrt.first_sizes(1) == (1,)
    assert PROVIDERS["cpu"].first_sizes(16) == ()


def test_cpu_takes_none_of_these(bundles: BundleWriter) -> None:
    opened = open_session(bundles.digits() / "model.onnx", "cpu", 1)
    assert (opened.first_sizes(8), opened.warmed_sizes(8), dict(opened.place.options)) == ((), (), {})


@pytest.mark.parametrize(
    ("placement", "text"),
    [
        ({"cpu": 14}, "14 nodes on cpu"),
        ({"cuda": 120, "cpu": 3}, "120 nodes on cuda, 3 on cpu"),
        ({"cpu": 1}, "1 node on cpu"),
        ({}, "no nodes"),
    ],
)
def test_placement_in_words(placement: dict[str, int], text: str) -> None:
    assert describe_placement(placement) == text


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "/onnxruntime/python/onnxruntime_pybind_state.cc:1053 std::shared_ptr<onnxruntime::IFactory> onnxruntime::"
            "python::Create(const onnxruntime::SessionOptions&, const std::string&) Invalid OpenVINO EP option: x\n",
            "Invalid OpenVINO EP option: x",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : /src/cuda_call.cc:129 std::conditional_t<THRW, void, Status> CudaCall(E, "
            "int) [with E = cudaError; bool THRW = true] CUDA failure 35: the driver (old) is insufficient ; GPU=0",
            "CUDA failure 35: the driver (old) is insufficient ; GPU=0",
        ),
        (
            "/src/factory.cc:306 onnxruntime::Parse(const Options&, Info&)::<lambda(const std::string&)> JSON is wrong",
            "JSON is wrong",
        ),
        ("/src/bridge.cc:2458 operator()(int) const Failed to load library", "Failed to load library"),
        ("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Protobuf parsing failed.", "Protobuf parsing failed."),
        ("No place: at all (really)", "No place: at all (really)"),
        ("/src/odd.cc:1 nothing in parentheses", "nothing in parentheses"),
        ("", "RuntimeError"),
    ],
)
def test_what_onnx_runtime_says_without_its_place(said: str, message: str) -> None:
    assert plain(RuntimeError(said)) == message


def test_first_line_is_whole() -> None:
    assert first_line(RuntimeError("\n/src/a.cc:1 f() b\nc")) == "/src/a.cc:1 f() b"
