"""Drift of a network in a lower precision: the monitor stays float32, and what it keeps adapts the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from normfold.contract.precision.record import PrecisionKind
from normfold.contract.source_card import SourceCard
from normfold.export.adapt.adapt import adapt
from normfold.export.bundle.export import export_bundle
from normfold.export.precision.options import PrecisionOptions
from normfold.export.precision.quantize_bundle import quantize_bundle
from normfold.export.quantize.proof import time_ratio
from tests.support.onnx_models import GREY_CARD, grey_classifier, grey_pictures
from tests.support.service import StartService

CARD = SourceCard(preprocessing=GREY_CARD, labels=("a", "b", "c"), logits=("logits",))
OPTIONS = [
    PrecisionOptions(PrecisionKind.INT8, force=True, max_drop=0.3),
    PrecisionOptions(PrecisionKind.FLOAT16, max_drop=0.3),
    PrecisionOptions(PrecisionKind.FLOAT16, float16_io=True, max_drop=0.3),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=["int8", "float16", "float16-io"])
def test_network_in_a_lower_precision_is_monitored_and_adapted(
    options: PrecisionOptions, tmp_path: Path, start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_ratio, "SECONDS", 0.0)
    onnx.save(grey_classifier(), tmp_path / "net.onnx")
    repository, state = tmp_path / "models", tmp_path / "state"
    export_bundle(tmp_path / "net.onnx", repository, "net", card=CARD)
    quantize_bundle(repository, "net", options)
    service = start(repository, drift_share=1.0, state_dir=state, keep_samples=100)

    pictures = grey_pictures(60, seed=9)
    for picture in pictures:
        answer = service.client.post("/v1/models/net:predict", json={"instances": [picture[0].tolist()]})
        assert answer.status_code == 200, answer.text
    (tmp_path / "samples.npz").write_bytes(service.client.get("/v2/models/net/samples").content)
    with np.load(tmp_path / "samples.npz") as kept:
        assert kept["input"].dtype == np.float32
        sent = GREY_CARD.standardise(pictures)
        distances = np.abs(kept["input"][:, None] - sent[None]).max(axis=(2, 3, 4))
        assert (distances.min(axis=1) < 2e-3).all()
        assert len(kept["input"]) >= 32

    adapted = adapt(repository, "net", tmp_path / "samples.npz").publish().manifest

    assert adapted.precision is not None
    assert adapted.precision.kind == options.kind
    again = start(repository)
    answer = again.client.post("/v1/models/net/versions/3:predict", json={"instances": [pictures[0, 0].tolist()]})
    assert answer.status_code == 200
