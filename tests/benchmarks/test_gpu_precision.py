"""The benchmark of float16 on a GPU: its table, its runs and its fallbacks, on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_precision
from benchmarks.gpu_precision import VARIANTS, Variant, find_runs, make_network, times_of


@pytest.mark.slow
def test_variants_run_and_those_that_cannot_be_opened_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    def unchanged(network: Any, mode: str) -> Any:
        assert mode == "reduce-overhead"
        return network

    monkeypatch.setattr(torch, "compile", unchanged)
    network, files = make_network("convnet", (1, 8, 8), tmp_path)
    images = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    variants = (
        Variant("float32", is_float16=False, provider="cpu"),
        Variant("float16", is_float16=True, provider="cpu"),
        Variant("float16, in place", is_float16=True, provider="cpu", keeps_addresses=True),
        VARIANTS[-1],
    )
    runs = dict(find_runs(network, files, images, variants, "cpu"))
    assert list(runs) == [
        *("float32", "float16", "float16, in place"),
        *("torch float16, channels last", "torch.compile of that"),
    ]
    assert "float16, TensorRT: cannot be run (" in capsys.readouterr().out
    wanted = runs["float32"][1]()[0]
    for name in ("float16", "float16, in place"):
        (got,) = runs[name][1]()
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, wanted, atol=2e-2)
    np.testing.assert_allclose(runs["torch.compile of that"][1](), wanted, atol=2e-2)


def test_medians_are_of_interleaved_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def seconds_of(run: Any) -> float:
        name, seconds = run()
        calls.append(name)
        return float(seconds[calls.count(name) - 1])

    monkeypatch.setattr(gpu_precision, "seconds_of", seconds_of)
    runs: dict[str, Any] = {
        name: (lambda name=name: (f"{name}/device", (3, 1, 2)), lambda name=name: (f"{name}/host", (9, 7, 8)))
        for name in ("a", "b")
    }
    assert times_of(runs, 3) == {"a": (2, 8), "b": (2, 8)}
    assert calls[:5] == ["a/device", "a/host", "b/device", "b/host", "a/device"]


def test_graphs_are_captured_only_where_addresses_stay() -> None:
    for variant in VARIANTS:
        assert variant.keeps_addresses == ("enable_cuda_graph" in variant.options)
