"""Options and CUDA graphs are tried while a model loads.

CUDA is simulated, and its graphs are bindings to memory of the CPU.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
import pytest

from normfold.contract.manifest import PRECISION_SCHEMA_VERSION, OutputError
from normfold.contract.precision.record import Precision, PrecisionKind, PrecisionProof, Recipe
from normfold.service.repository import warmup
from normfold.service.runtime import cuda_graph
from normfold.service.runtime.tuning import comparison, graphs, inputs, search
from normfold.service.runtime.tuning import options as tuned_options
from tests.support.bundles import BundleWriter
from tests.support.service import CUDA, TENSORRT, PretendedSession, StartService
from tests.support.waiting import wait_for

STATED = {"logits": OutputError(error=1e-7, noise=1e-7, allowed=1e-6)}
NHWC, TF32, GRAPH = "prefer_nhwc", "use_tf32", "enable_cuda_graph"


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets the milliseconds of the attempts' runs, in order; those before take 1."""

    def install(*milliseconds: float) -> None:
        left = [*milliseconds]
        monkeypatch.setattr(comparison, "time_in_turns", lambda *_: (1e-3, left.pop(0) / 1e3))

    return install


@pytest.fixture
def asked(pretend: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ONNX Runtime was asked for; its GPU's memory is the host's."""
    monkeypatch.setattr(cuda_graph, "DEVICE", "cpu")
    return pretend()


@pytest.fixture
def serve(
    bundles: BundleWriter, start: StartService, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Return a function that serves the digits, in batches of 1 and 2, and gives the client."""
    assert asked == []
    monkeypatch.setattr(warmup, "has_shape_switch_penalty", lambda *_: False)

    def serve_digits(**settings: Any) -> Any:
        bundles.digits(verification=STATED)
        return start(bundles.root, **{"provider": "cuda", "max_batch_size": 2, **settings}).client

    return serve_digits


def options_of(asked: list[Any]) -> list[dict[str, str]]:
    """Return the options by which attempts differ, for each session in the order of opening."""
    return [
        {name: value for name, value in providers[0][1].items() if name in (NHWC, TF32, GRAPH) and value != "0"}
        for providers in asked
        if providers[0][0] == CUDA
    ]


def attempts(client: Any) -> Mapping[str, str]:
    parameters = client.get("/v2/models/digits/config").json()["parameters"]
    found = {name: value["string_value"] for name, value in parameters.items()}
    return {name.removeprefix("tuning."): text for name, text in found.items() if name.startswith("tuning.")}


def graph_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("normfold-cuda-graph")}


def ask(client: Any, rows: int, value: float = 1.0) -> list[float]:
    pictures = {"name": "input", "datatype": "FP32", "shape": [rows, 1, 4, 4], "data": [value] * 16 * rows}
    data: list[float] = client.post("/v2/models/digits/infer", json={"inputs": [pictures]}).json()["outputs"][0]["data"]
    return data


def test_faster_options_and_graphs_are_kept_and_reported(
    serve: Any, asked: list[Any], speeds: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    speeds(0.5, 0.5, 2.0, 2.0, 0.25, 0.9)
    with caplog.at_level(logging.INFO, "normfold.service.repository"):
        client = serve()
    assert options_of(asked)[:3] == [{}, {NHWC: "1"}, {NHWC: "1", TF32: "1"}]
    assert options_of(asked)[3:] == [{NHWC: "1", GRAPH: "1"}] * 2
    expected = {
        "prefer_nhwc=1": "kept (1 row 0.500 ms instead of 1.000, 2 rows 0.500 ms instead of 1.000)",
        "prefer_nhwc=1, use_tf32=1": "not kept, not faster (1 row 2.000 ms instead of 1.000, "
        "2 rows 2.000 ms instead of 1.000)",
        "enable_cuda_graph=1 (1 row)": "kept (1 row 0.250 ms instead of 1.000)",
        "enable_cuda_graph=1 (2 rows)": "kept (2 rows 0.900 ms instead of 1.000)",
    }
    assert attempts(client) == expected
    (line,) = [text for text in caplog.messages if text.startswith("digits/1 on cuda: ")]
    assert all(f"{name}: {text}" in line for name, text in expected.items())
    config = client.get("/v2/models/digits/config").json()["parameters"]
    assert config["provider_options.prefer_nhwc"] == {"string_value": "1"}
    assert config["provider_options.use_tf32"] == {"string_value": "0"}


def test_replay_answers_each_request_with_its_own_rows(
    serve: Any, speeds: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds(2, 2, 2, 2, 0.5, 0.5)
    client = serve()
    plain: list[int] = []

    def run(session: Any, names: Any, tensors: Any, options: Any) -> Any:
        plain.append(len(tensors["input"]))
        return session._real.run(names, tensors, options)

    monkeypatch.setattr(PretendedSession, "run", run, raising=False)
    for rows, value in ((1, 1.0), (2, 2.0), (1, 3.0), (5, 0.5)):
        assert ask(client, rows, value) == [4 * value] * 3 * rows
    assert plain == []


def test_thread_of_graphs_ends_with_its_model(serve: Any, speeds: Any) -> None:
    speeds(2, 2, 2, 2, 0.5, 0.5)
    client, others = serve(model_control="explicit"), graph_threads()
    assert client.post("/v2/repository/models/digits/load").status_code == 200
    (thread,) = graph_threads() - others
    assert client.post("/v2/repository/models/digits/unload").status_code == 200
    wait_for(lambda: not thread.is_alive())


def test_graph_that_is_not_faster_is_the_last_one_tried(serve: Any, asked: list[Any], speeds: Any) -> None:
    speeds(2, 2, 2, 2, 0.99)
    client = serve()
    assert list(attempts(client)) == ["prefer_nhwc=1", "use_tf32=1", "enable_cuda_graph=1 (1 row)"]
    assert options_of(asked)[-1] == {GRAPH: "1"}
    assert ask(client, 1) == [4.0] * 3


def test_other_answers_are_not_kept(serve: Any, speeds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(session: Any, names: Any, tensors: Any, options: Any) -> Any:
        results = session._real.run(names, tensors, options)
        rounded = session._options[CUDA].get(TF32) == "1"
        return [array.astype(np.float16).astype(np.float32) if rounded else array for array in results]

    monkeypatch.setattr(PretendedSession, "run", run, raising=False)
    speeds(2, 2, 2)
    expected = attempts(serve())
    assert expected["use_tf32=1"].startswith("not kept, 'logits' differs by ")
    assert expected["use_tf32=1"].endswith(" of its range, 1.0e-06 are allowed")


def test_graph_that_replays_the_captured_inputs_is_not_kept(
    serve: Any, speeds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update_nothing(_: Any, __: Any) -> None:
        """Leave the inputs of the capture."""

    monkeypatch.setattr(onnxruntime.OrtValue, "update_inplace", update_nothing)
    speeds(2, 2, 2, 2, 0.5)
    client = serve()
    assert attempts(client)["enable_cuda_graph=1 (1 row)"].startswith("not kept, 'logits' differs by ")
    assert ask(client, 1) == [4.0] * 3


@pytest.mark.parametrize("option", [NHWC, GRAPH])
def test_option_that_onnx_runtime_rejects_does_not_stop_the_model(
    serve: Any, speeds: Any, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    simulated = onnxruntime.InferenceSession

    def reject(path: Any, options: Any, providers: Any, enable_fallback: int) -> Any:
        if providers[0][1].get(option) == "1":
            raise RuntimeError(f'Unknown provider option: "{option}".')
        return simulated(path, options, providers=providers, enable_fallback=enable_fallback)

    monkeypatch.setattr(onnxruntime, "InferenceSession", reject)
    speeds(*[2] * 4, 0.5, 0.5)
    client = serve()
    reasons = [text for name, text in attempts(client).items() if name.startswith(option)]
    assert reasons == [f'not kept, ONNX Runtime rejected it (Unknown provider option: "{option}")']
    assert ask(client, 1) == [4.0] * 3


def test_graph_without_memory_on_the_gpu_does_not_stop_the_model(
    serve: Any, speeds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graph, "DEVICE", "none")  # where nothing can be allocated
    speeds(2, 2, 2, 2)
    client = serve()
    assert attempts(client)["enable_cuda_graph=1 (1 row)"].startswith("not kept, ")
    assert ask(client, 1) == [4.0] * 3


def test_tensorrt_is_timed_on_the_range_of_its_engine(
    bundles: BundleWriter, start: StartService, pretend: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def run(session: Any, names: Any, tensors: Any, options: Any) -> Any:
        sizes.append(len(tensors["input"]))
        return session._real.run(names, tensors, options)

    monkeypatch.setattr(PretendedSession, "run", run, raising=False)
    pretend(nodes={TENSORRT: 2})
    proof = PrecisionProof(processor="p", rows=4, rows_from="random", outputs={"logits": 60.0}, size_ratio=0.5)
    precision = Precision(kind=PrecisionKind.FLOAT16, recipe=Recipe(), proof=proof)
    bundles.digits(precision=precision, schema_version=PRECISION_SCHEMA_VERSION)
    client = start(bundles.root, provider="tensorrt", max_batch_size=32).client
    assert list(attempts(client)) == ["trt_fp16_enable=True"]
    assert list(dict.fromkeys(sizes))[:2] == [1, 32]


def test_graph_of_large_inputs_is_not_tried(serve: Any, speeds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MAX_COPIED_BYTES", 4 * (16 + 3))  # of one row of the digits and of its logits
    speeds(2, 2, 2, 2, 0.5)
    reported = attempts(serve())
    assert reported["enable_cuda_graph=1 (1 row)"].startswith("kept")
    problem = "not kept, its inputs and outputs have 152 bytes, and at most 76 are copied"
    assert reported["enable_cuda_graph=1 (2 rows)"] == problem


def test_user_decides_options_that_are_set(serve: Any, asked: list[Any], speeds: Any) -> None:
    speeds()
    client = serve(provider_options={NHWC: 0, GRAPH: 0}, tf32="on")
    assert attempts(client) == {}
    assert options_of(asked) == [{TF32: "1"}]


def test_tuning_stops_after_its_seconds(serve: Any, speeds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 6))
    with_clock = partial(search.try_candidates, clock=lambda: next(now))
    monkeypatch.setattr(tuned_options, "try_candidates", with_clock)
    speeds(0.5, 0.5, 0.5, 0.5)
    expected = attempts(serve(gpu_tuning_s=10))
    assert expected["prefer_nhwc=1, use_tf32=1"] == "not kept, not tried: 10 s were used up"


@pytest.mark.parametrize(
    "settings", [{"provider": "cpu"}, {"provider": "cuda", "gpu_tuning_s": 0}], ids=["cpu", "turned off"]
)
def test_nothing_is_tried_on_the_cpu_or_if_it_is_turned_off(
    serve: Any, asked: list[Any], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    for module, name in ((comparison, "make_inputs"), (comparison, "time_in_turns"), (inputs, "make_check_inputs")):
        monkeypatch.delattr(module, name)
    opened = len(asked)
    client = serve(**settings)
    assert len(asked) == opened + 1
    assert attempts(client) == {}
    assert ask(client, 1) == [4.0] * 3


@pytest.mark.parametrize(("datatype", "shape"), [("FP32", (-1, -1)), ("BYTES", (-1, 2))])
def test_nothing_is_tried_without_inputs_that_can_be_made_up(
    bundles: BundleWriter, start: StartService, asked: list[Any], datatype: str, shape: tuple[int, ...]
) -> None:
    stated = {"output": STATED["logits"]}
    bundles.identity(datatype, "digits", shape=shape, verification=stated)
    assert attempts(start(bundles.root, provider="cuda").client) == {}
    assert len(asked) == 1


def test_nothing_is_tried_without_a_stated_tolerance(
    bundles: BundleWriter, start: StartService, asked: list[Any]
) -> None:
    bundles.digits()
    client = start(bundles.root, provider="cuda", max_batch_size=2).client
    assert attempts(client) == {}
    assert {NHWC: "1"} not in options_of(asked)
