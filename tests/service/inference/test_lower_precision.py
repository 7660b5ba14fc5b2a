"""Answers of networks in a lower precision, as clients get them: as near to float32 as the manifest's proof says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.datasets import load_digits

from normfold.contract.manifest import Manifest
from normfold.contract.precision.record import PrecisionKind
from normfold.contract.precision.signal_to_noise import signal_to_noise_db
from normfold.contract.source_card import SourceCard
from normfold.export.bundle.export import export_bundle
from normfold.export.precision.options import PrecisionOptions
from normfold.export.precision.quantize_bundle import quantize_bundle
from normfold.export.quantize.proof import time_ratio
from tests.support.onnx_models import GREY_CARD, grey_classifier, run32, with_statistics_of
from tests.support.service import Service, StartService

CARD = SourceCard(preprocessing=GREY_CARD, labels=("a", "b", "c"), logits=("logits",))
DIGITS = load_digits().images[:240, None].astype(np.float32)
COMPARED = DIGITS[1::2]
"""Rows that the proof compares; the others give ranges."""

OPTIONS: dict[str, dict[str, Any]] = {
    "int8": {"kind": PrecisionKind.INT8, "force": True, "max_drop": 0.2},
    "float16": {"kind": PrecisionKind.FLOAT16},
    "float16-io": {"kind": PrecisionKind.FLOAT16, "float16_io": True},
}


@pytest.fixture(params=list(OPTIONS))
def digits(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Manifest]:
    """A repository with digits/1 in float32 and digits/2 in a lower precision, and the manifest of the latter."""
    monkeypatch.setattr(time_ratio, "SECONDS", 0.0)
    monkeypatch.setattr(time_ratio, "MIN_ROUNDS", 1)
    np.savez(tmp_path / "samples.npz", x=DIGITS)
    proto = with_statistics_of(grey_classifier(), {"input": GREY_CARD.standardise(DIGITS)})
    onnx.save(proto, tmp_path / "digits.onnx")
    export_bundle(tmp_path / "digits.onnx", tmp_path / "models", "digits", card=CARD)
    options = PrecisionOptions(samples=tmp_path / "samples.npz", **OPTIONS[request.param])
    return tmp_path / "models", quantize_bundle(tmp_path / "models", "digits", options).manifest


def infer(service: Service, rows: np.ndarray, binary: bool) -> np.ndarray:
    """Return the logits of version 2 for rows of its input's dtype."""
    datatype = {"float32": "FP32", "float16": "FP16"}[str(rows.dtype)]
    entry: dict[str, Any] = {"name": "input", "shape": list(rows.shape), "datatype": datatype}
    path = "/v2/models/digits/versions/2/infer"
    if not binary:
        answer = service.client.post(path, json={"inputs": [entry | {"data": rows.ravel().tolist()}]})
        (output,) = answer.json()["outputs"]
        return np.array(output["data"], rows.dtype).reshape(output["shape"])
    entry["parameters"] = {"binary_data_size": rows.nbytes}
    head = json.dumps(
        {"inputs": [entry], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}
    ).encode()
    answer = service.client.post(
        path, content=head + rows.tobytes(), headers={"Inference-Header-Content-Length": str(len(head))}
    )
    length = int(answer.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(answer.content[:length])["outputs"]
    return np.frombuffer(answer.content[length:], rows.dtype).reshape(output["shape"])


@pytest.mark.slow
def test_served_answers_are_as_near_to_float32_as_the_proof_says(
    digits: tuple[Path, Manifest], start: StartService
) -> None:
    repository, manifest = digits
    assert manifest.precision is not None
    proof = manifest.precision.proof
    rows = GREY_CARD.standardise(COMPARED)
    (reference,) = run32(onnx.load(repository / "digits" / "2" / "reference.onnx"), {"input": rows})
    rows = rows.astype({"FP32": np.float32, "FP16": np.float16}[manifest.inputs[0].datatype])
    service = start(repository)

    together = infer(service, rows, binary=True)
    alone = np.concatenate([infer(service, row[None], binary=True) for row in rows])
    # JSON has no float16
    written = infer(service, rows[:8], binary=False) if rows.dtype == np.float32 else together[:8]
    predicted = service.client.post(
        "/v1/models/digits/versions/2:predict", json={"instances": COMPARED[:, 0].tolist()}
    ).json()["predictions"]

    found, stated = signal_to_noise_db(reference, together), proof.outputs["logits"]
    if manifest.precision.kind is PrecisionKind.INT8:
        assert found == pytest.approx(stated, abs=0.1)
    else:  # the proof rounds each value to half, which the CPU does not
        assert found >= stated
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(written, together[:8])
    classes = together.argmax(axis=1)
    assert proof.agreement is not None
    assert (classes == reference.argmax(axis=1)).mean() == proof.agreement.share
    assert [each["index"] for each in predicted] == classes.tolist()
