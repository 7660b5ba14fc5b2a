"""An open session: its errors and its datatypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normfold.service.errors import InvalidRequestError, RunError
from normfold.service.runtime import session as module
from normfold.service.runtime.session_factory import open_session
from tests.support.bundles import BundleWriter


@pytest.fixture
def model(bundles: BundleWriter) -> Path:
    return bundles.digits() / "model.onnx"


def test_invalid_tensor_is_a_client_error_and_other_failures_are_server_errors(model: Path) -> None:
    opened = open_session(model, "cpu", 1)
    with pytest.raises(InvalidRequestError, match="rejects these tensors"):
        opened.run({"input": np.zeros((1, 1, 5, 5), np.float32)}, ["logits"])

    class Broken:
        def run(self, *_: Any) -> None:
            raise RuntimeError("planted\nmore")

    opened._session = Broken()
    with pytest.raises(RunError) as caught:
        opened.run({}, ["logits"])
    assert caught.value.detail == "planted"
    assert "planted" not in str(caught.value)


def test_every_datatype_maps_to_an_onnx_runtime_type() -> None:
    from normfold.contract.manifest import DATATYPES

    assert sorted(module._DATATYPES.values()) == sorted(DATATYPES)
