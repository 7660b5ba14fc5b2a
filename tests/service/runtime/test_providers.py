"""Options and batch sizes of each provider, tested without its hardware."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from normfold.contract.errors import first_line
from normfold.service.runtime.providers import cuda, openvino, tensorrt
from normfold.service.runtime.providers.ort_messages import message_of
from normfold.service.runtime.providers.placement import describe_nodes
from normfold.service.runtime.providers.session_request import SessionRequest
from normfold.service.runtime.providers.table import AUTO, AUTO_ORDER, PROVIDERS, short_name
from normfold.service.runtime.session_factory import open_session
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter

NOWHERE = Path("digits/1/model.onnx")


def test_every_provider_of_the_settings_is_in_the_table() -> None:
    assert {*PROVIDERS, AUTO} == set(get_args(Settings.model_fields["provider"].annotation))
    assert set(AUTO_ORDER) <= PROVIDERS.keys()
    assert "tensorrt" not in AUTO_ORDER


def test_provider_names_convert_both_ways() -> None:
    assert all(short_name(provider.onnx_name) == name for name, provider in PROVIDERS.items())
    assert short_name("OtherExecutionProvider") == "OtherExecutionProvider"


@pytest.mark.parametrize(
    ("max_batch_size", "sizes"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))]
)
def test_warmup_sizes_are_powers_of_two_and_the_maximum(max_batch_size: int, sizes: tuple[int, ...]) -> None:
    assert cuda.warmup_sizes(max_batch_size) == sizes


def test_default_options_keep_the_precision_of_results() -> None:
    assert cuda.options(SessionRequest(NOWHERE))["use_tf32"] == "0"
    assert tensorrt.options(SessionRequest(NOWHERE))["trt_fp16_enable"] == "False"
    assert openvino.options(SessionRequest(NOWHERE))["precision"] == "FP32"
    assert openvino.options(SessionRequest(NOWHERE, options={"device_type": "GPU"}))["precision"] == "ACCURACY"


def test_openvino_runs_on_the_cpu_with_our_threads_by_default() -> None:
    assert openvino.options(SessionRequest(NOWHERE, threads=3)) == {
        "device_type": "CPU",
        "num_of_threads": "3",
        "precision": "FP32",
    }
    assert openvino.runs_on_host(SessionRequest(NOWHERE))
    assert not openvino.runs_on_host(SessionRequest(NOWHERE, options={"device_type": "GPU.1"}))


def test_openvino_caches_compiled_models_for_a_gpu(tmp_path: Path) -> None:
    assert "cache_dir" not in openvino.options(SessionRequest(NOWHERE, cache=tmp_path))
    chosen = openvino.options(SessionRequest(NOWHERE, options={"device_type": "GPU"}, cache=tmp_path))
    assert Path(chosen["cache_dir"]).is_dir()


def test_tensorrt_engines_are_cached_by_network_and_options(bundles: BundleWriter, tmp_path: Path) -> None:
    one, other = (bundles.digits(version, bias=float(version)) / "model.onnx" for version in (1, 2))
    folders = [
        tensorrt.engine_folder(tmp_path, request)
        for request in (
            SessionRequest(one),
            SessionRequest(other),
            SessionRequest(one, options={"trt_fp16_enable": "True"}),
            SessionRequest(one, device_id=1),
        )
    ]
    assert len(set(folders)) == 4
    assert tensorrt.engine_folder(tmp_path, SessionRequest(one)) == folders[0]


def test_tensorrt_without_a_cache_keeps_no_engine() -> None:
    assert "trt_engine_cache_enable" not in tensorrt.options(SessionRequest(NOWHERE))


def test_tensorrt_warms_up_the_minimum_and_the_maximum_batch_size_first() -> None:
    assert tensorrt.warmup_order(16) == (1, 16)
    assert tensorrt.warmup_order(1) == (1,)
    assert PROVIDERS["cpu"].warmup_order(16) == ()


def test_cpu_provider_has_no_options_and_no_warmup_sizes(bundles: BundleWriter) -> None:
    opened = open_session(bundles.digits() / "model.onnx", "cpu", 1)
    assert (opened.warmup_order(8), opened.warmup_sizes(8), dict(opened.placement.options)) == ((), (), {})


@pytest.mark.parametrize(
    ("placement", "text"),
    [
        ({"cpu": 14}, "14 nodes on cpu"),
        ({"cuda": 120, "cpu": 3}, "120 nodes on cuda, 3 on cpu"),
        ({"cpu": 1}, "1 node on cpu"),
        ({}, "no nodes"),
    ],
)
def test_placement_is_described_in_words(placement: dict[str, int], text: str) -> None:
    assert describe_nodes(placement) == text


@pytest.mark.parametrize(
    ("messages", "message"),
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
def test_onnx_runtime_message_is_given_without_its_source_position(messages: str, message: str) -> None:
    assert message_of(RuntimeError(messages)) == message


def test_first_line_is_whole() -> None:
    assert first_line(RuntimeError("\n/src/a.cc:1 f() b\nc")) == "/src/a.cc:1 f() b"
