"""The networks that `make bench-serve` serves: those in int8 are int8, under a name of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.serve.networks import INT8, export, infer_request
from normfold.contract.manifest import read_manifest
from normfold.export.quantize.proof import time_ratio


@pytest.mark.slow
def test_network_in_int8_is_exported_beside_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_ratio, "SECONDS", 0.0)
    for network in ("small", f"small{INT8}"):
        export(tmp_path, tmp_path / "repository", network)

    manifests = [read_manifest(path) for path in sorted(tmp_path.glob("repository/*/1/manifest.json"))]
    assert [(each.name, None if each.precision is None else each.precision.kind) for each in manifests] == [
        ("small", None),
        ("small-int8", "int8"),
    ]
    row = np.zeros((1, 64), np.float32)
    assert infer_request(tmp_path / "repository", "small-int8", row, binary=True).path == "/v2/models/small-int8/infer"
