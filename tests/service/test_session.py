from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from service import session as module
from service.errors import BundleError, ProviderError, RunError, WireError
from service.session import open_session


@pytest.fixture
def model(bundles: Any) -> Path:
    return bundles.digits() / "model.onnx"


def pretend_cuda_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ONNX Runtime list CUDA, and open sessions on the CPU, as it does where CUDA's libraries are missing."""
    right = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers: right(path, options, providers=providers[-1:]),
    )


def test_cpu_is_got_where_it_is_asked_for(model: Path) -> None:
    opened = open_session(model, "cpu", 1)
    assert opened.provider == "cpu"
    assert opened.inputs == {"input": ("FP32", (-1, 1, 4, 4))}
    assert opened.outputs == {"logits": ("FP32", (-1, 3))}


def test_auto_takes_the_cpu_where_there_is_no_cuda(model: Path) -> None:
    assert open_session(model, "auto", 1).provider == "cpu"


def test_cuda_without_cuda_is_an_error_that_says_what_to_install(model: Path) -> None:
    with pytest.raises(ProviderError, match=r"'cuda' was asked for and .* built without it; .*normfold\[gpu\]"):
        open_session(model, "cuda", 1)


def test_cuda_that_falls_back_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda_is_listed(monkeypatch)
    with pytest.raises(ProviderError, match="ONNX Runtime fell back to the CPU"):
        open_session(model, "cuda", 1)


def test_auto_logs_the_fallback(model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pretend_cuda_is_listed(monkeypatch)
    assert open_session(model, "auto", 1).provider == "cpu"
    assert any(
        record.levelno == logging.WARNING and "CUDA does not work" in record.message for record in caplog.records
    )


def test_threads_are_as_told_and_do_not_spin(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    right = onnxruntime.InferenceSession

    def look(path: Path, options: Any, providers: Any) -> Any:
        seen.append((options.intra_op_num_threads, options.get_session_config_entry("session.intra_op.allow_spinning")))
        assert isinstance(path, Path)
        return right(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", look)
    open_session(model, "cpu", 3)
    assert seen == [(3, "0")]


def test_file_that_is_no_network_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(BundleError, match=r"ONNX Runtime cannot open 'model\.onnx'") as caught:
        open_session(path, "cpu", 1)
    assert "\n" not in str(caught.value)


def test_wrong_tensor_is_the_clients_fault_and_another_failure_is_ours(model: Path) -> None:
    opened = open_session(model, "cpu", 1)
    with pytest.raises(WireError, match="does not take these tensors"):
        opened.run({"input": np.zeros((1, 1, 5, 5), np.float32)}, ["logits"])

    class Broken:
        def run(self, *_: Any) -> None:
            raise RuntimeError("planted\nmore")

    opened._session = Broken()
    with pytest.raises(RunError) as caught:
        opened.run({}, ["logits"])
    assert caught.value.detail == "planted"
    assert "planted" not in str(caught.value)


def test_every_datatype_has_onnx_runtimes_name() -> None:
    from contract.manifest import DATATYPES

    assert sorted(module._DATATYPES.values()) == sorted(DATATYPES)
