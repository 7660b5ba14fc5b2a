from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from normfold.models.errors import CompilationError, CompilerError
from normfold.models.training.checkpoint import load_checkpoint
from normfold.models.training.loop.compilation import compile_network, named_compilation_errors
from normfold.models.training.train import fit
from tests.support.training import MakeRun, StopAfter

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_cpu")]


def test_compiled_run_has_clean_names_keeps_frozen_layers_and_resumes_exactly(
    tmp_path: Path, make_run: MakeRun
) -> None:
    config, dataset = make_run("mlp", {"widths": [4, 4]}, epochs=2, batch_size=42, compile=True, freeze_bn="blocks.0*")
    whole = fit(config, dataset, tmp_path / "whole")
    network = load_checkpoint(whole.folder).network
    assert not [name for name in network.state_dict() if "_orig_mod" in name]
    assert whole.config.frozen_batchnorms == ("blocks.0.norm",)
    means = [network.state_dict()[f"blocks.{index}.norm.running_mean"] for index in (0, 1)]
    assert torch.equal(means[0], torch.zeros(4))
    assert not torch.equal(means[1], torch.zeros(4))
    with pytest.raises(KeyboardInterrupt):
        fit(config, dataset, tmp_path / "broken", callback=StopAfter(1))
    fit(config, dataset, tmp_path / "broken", resume=True)
    for name in ("weights.safetensors", "config.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (whole.folder / name).read_bytes()


def test_machine_without_a_compiler_is_named_before_a_file_is_written(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')")

    monkeypatch.setattr("torch.compile", lambda *_, **__: fail)
    config, dataset = make_run(compile=True)
    with pytest.raises(CompilerError, match=r"No working C\+\+ compiler.*install a C\+\+ compiler.*without `compile`"):
        fit(config, dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_error_of_the_compiler_names_the_network() -> None:
    error = type("BackendCompilerFailed", (RuntimeError,), {"__module__": "torch._dynamo.exc"})
    expected = "'net' cannot be compiled: no kernel; train it without `compile`"
    with pytest.raises(CompilationError, match=expected), named_compilation_errors("net", compiled=True):
        raise error("no kernel\nand much more")
    with pytest.raises(ValueError, match="other"), named_compilation_errors("net", compiled=True):
        raise ValueError("other")


def test_compiled_network_is_the_same_function() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()).eval()
    x = torch.randn(5, 3)
    assert torch.allclose(compile_network(network, torch.device("cpu"))(x), network(x), atol=1e-6)
