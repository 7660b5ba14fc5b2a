"""`normfold.load_repository`: a repository's models in this process, with the answers that the service gives."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normfold
from normfold.contract.errors import InputError
from normfold.errors import InvalidRequestError, RawInputError, SettingsError, UnknownModelError, UnsuitableModelError
from tests.support.bundles import LABELS, BundleWriter
from tests.support.service import StartService
from tests.support.waiting import wait_for

PICTURES = np.arange(32, dtype=np.float64).reshape(2, 4, 4) % 17


@pytest.fixture
def repository(bundles: BundleWriter) -> Path:
    """A repository with two versions of a classifier, and models of rows, two inputs and texts."""
    bundles.digits(1)
    bundles.digits(2, bias=1.0)
    bundles.rows()
    bundles.pair()
    bundles.one_by_one()
    bundles.identity("BYTES")
    bundles.identity("FP32")
    return bundles.root


def test_models_and_versions_are_listed(repository: Path) -> None:
    with normfold.load_repository(repository, provider="cpu") as models:
        assert list(models) == ["digits", "identity-bytes", "identity-fp32", "one-by-one", "pair", "rows"]
        assert len(models) == 6
        assert "digits" in models
        assert "nothing" not in models
        assert models["digits"].versions == (1, 2)
        assert models["digits"].manifest().version == 2
        assert models["digits"].manifest(1).card.labels == LABELS
        assert models.problems == {}
        assert repr(models["digits"]) == "RepositoryModel('digits', versions [1, 2])"
        assert "digits [1, 2], identity-bytes [1]" in repr(models)


def test_repository_and_client_answer_alike(repository: Path, start: StartService) -> None:
    pair = {"count": np.array([[1, 2], [3, 4]]), "flag": np.array([True, False])}
    pixels = (np.arange(16, dtype=np.uint8) * 15).reshape(4, 4)
    url = str(start(repository).client.base_url)
    with normfold.load_repository(str(repository), provider="cpu") as models, normfold.Client(url) as client:
        digits = models["digits"]
        for here, there in zip(digits.predict(PICTURES), client.predict("digits", PICTURES), strict=True):
            assert (here.label, here.index, here.probability) == (there.label, there.index, there.probability)
            np.testing.assert_array_equal(here.probabilities, there.probabilities)
        assert digits.classify(pixels, top=2) == client.classify("digits", pixels, top=2)
        for name, array in models["pair"].infer(pair).items():
            np.testing.assert_array_equal(array, client.infer("pair", pair)[name])
        rows = [{"age": 50.0, "income": 1e9}, [30.0, 1e9 + 5]]
        np.testing.assert_array_equal(models["rows"].predict(rows), client.predict("rows", rows))
        texts = {"input": np.array([["ä", "b"]])}
        assert models["identity-bytes"].infer(texts)["output"].tolist() == [["ä", "b"]]


def test_version_is_asked_for(repository: Path) -> None:
    inputs = {"input": np.zeros((1, 1, 4, 4), np.float32)}
    with normfold.load_repository(repository, provider="cpu") as models:
        assert models["digits"].infer(inputs, version=1)["logits"].tolist() == [[0.0] * 3]
        assert models["digits"].infer(inputs)["logits"].tolist() == [[1.0] * 3]
        with pytest.raises(UnknownModelError, match="There is no version '3' of model 'digits'"):
            models["digits"].infer(inputs, version=3)


def test_outputs_are_those_that_are_named(repository: Path) -> None:
    inputs = {"count": np.array([[1, 2]]), "flag": np.array([True])}
    with normfold.load_repository(repository, provider="cpu") as models:
        assert list(models["pair"].infer(inputs, outputs=["opposite"])) == ["opposite"]
        with pytest.raises(InvalidRequestError, match="There is no output 'x'"):
            models["pair"].infer(inputs, outputs=["x"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"The model takes the inputs \['input'\], got \[\]\."),
        ({"x": np.zeros((1, 1, 4, 4), np.float32)}, r"got \['x'\]"),
        ({"input": np.zeros((1, 1, 4, 4))}, r"Input 'input' is float64 \[1, 1, 4, 4\]; the model takes FP32"),
        ({"input": np.zeros((1, 4, 4), np.float32)}, r"is float32 \[1, 4, 4\]; .* \[-1, 1, 4, 4\], -1 being free"),
    ],
)
def test_infer_rejects_tensors_that_the_model_does_not_declare(
    repository: Path, inputs: dict[str, Any], message: str
) -> None:
    with (
        normfold.load_repository(repository, provider="cpu") as models,
        pytest.raises(InvalidRequestError, match=message),
    ):
        models["digits"].infer(inputs)


def test_predict_and_classify_reject_what_the_model_does_not_take(repository: Path) -> None:
    with normfold.load_repository(repository, provider="cpu") as models:
        with pytest.raises(RawInputError, match="Instance 0: Expected an image of shape"):
            models["digits"].predict(np.zeros((1, 5, 5)))
        with pytest.raises(UnsuitableModelError, match="does not take images"):
            models["rows"].classify(b"")
        with pytest.raises(RawInputError, match="neither a PNG nor a JPEG"):
            models["digits"].classify(b"text")


def test_threads_share_a_repository(repository: Path) -> None:
    with normfold.load_repository(repository, provider="cpu") as models, ThreadPoolExecutor(8) as pool:
        arrays = [np.full((1, 3), number, np.float32) for number in range(100)]
        answers = list(pool.map(lambda array: models["identity-fp32"].infer({"input": array})["output"], arrays))
    np.testing.assert_array_equal(answers, arrays)


def test_broken_version_leaves_the_others(bundles: BundleWriter) -> None:
    bundles.digits(1)
    (bundles.digits(2) / "model.onnx").write_bytes(b"")
    with normfold.load_repository(bundles.root, provider="cpu") as models:
        assert models["digits"].versions == (1,)
        assert list(models.problems) == ["digits/2"]
        assert "sha256 differs" in models.problems["digits/2"]


@pytest.mark.parametrize(("folder", "message"), [("none", "There is no folder"), (".", "There are no models in")])
def test_repository_without_models_is_an_input_error(tmp_path: Path, folder: str, message: str) -> None:
    before = set(threading.enumerate())
    with pytest.raises(InputError, match=message):
        normfold.load_repository(tmp_path / folder)
    assert set(threading.enumerate()) == before


def test_wrong_setting_is_a_settings_error(repository: Path) -> None:
    with pytest.raises(SettingsError, match="^`provider` is wrong"):
        normfold.load_repository(repository, provider="tpu")


def test_close_ends_every_thread_and_may_be_repeated(repository: Path) -> None:
    before = set(threading.enumerate())
    models = normfold.load_repository(repository, provider="cpu")
    models.close()
    models.close()
    gc.collect()
    assert set(threading.enumerate()) == before


def test_create_app_is_the_service(repository: Path) -> None:
    from fastapi.testclient import TestClient

    with TestClient(normfold.create_app(repository, provider="cpu")) as client:
        wait_for(lambda: client.get("/v2/health/ready").status_code == 200)
        answer = client.post("/v1/models/digits:predict", json={"instances": PICTURES.tolist()}).json()
    assert len(answer["predictions"]) == 2


def test_app_is_recognised_as_asgi_3(repository: Path) -> None:
    app = normfold.create_app(repository, provider="cpu")
    assert asyncio.iscoroutinefunction(app.__call__)


def test_create_app_rejects_an_unknown_setting(repository: Path) -> None:
    with pytest.raises(SettingsError, match="repositry"):
        normfold.create_app(repositry=repository)
