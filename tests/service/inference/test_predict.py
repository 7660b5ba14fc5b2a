"""The routes predict and classify: raw inputs, images, labels, masks."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest
from onnx import helper

from normfold.contract.manifest import TensorSpec
from normfold.contract.outputs.task import MultiLabel, Regression, Target
from normfold.contract.source_card import SourceCard
from tests.support.bundles import DIGITS, LABELS, ROWS, BundleWriter
from tests.support.infer_bodies import png_of
from tests.support.service import Service, StartService

PICTURE = np.arange(16, dtype=np.float64).reshape(4, 4)


def softmax_by_definition(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum()


def logits_of(picture: np.ndarray) -> np.ndarray:
    return ((picture / 16 - 0.25) / 0.5).sum(axis=0)[:3]


def predict(served: Service, model: str, instances: Any) -> Any:
    return served.client.post(f"/v1/models/{model}:predict", json={"instances": instances})


def test_predict_returns_labels_with_probabilities(served: Service) -> None:
    response = predict(served, "digits/versions/1", [PICTURE.tolist(), PICTURE[:, ::-1].tolist()])
    assert response.status_code == 200
    for got, picture in zip(response.json()["predictions"], (PICTURE, PICTURE[:, ::-1]), strict=True):
        expected = softmax_by_definition(logits_of(picture))
        np.testing.assert_allclose(got["probabilities"], expected, rtol=1e-5)
        assert got["index"] == expected.argmax()
        assert got["label"] == ("zero", "one", "two")[got["index"]]
        assert got["probability"] == max(got["probabilities"])


@pytest.mark.parametrize("route", [":predict", ":classify"])
def test_predict_and_classify_take_compressed_bodies(served: Service, route: str) -> None:
    body = json.dumps({"instances": [PICTURE.tolist()]}).encode() if route == ":predict" else png_of(PICTURE)
    path, plain = f"/v1/models/digits{route}", None
    members = gzip.compress(body[:20]) + gzip.compress(body[20:])
    packed = (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body)), ("x-gzip", members))
    for encoding, sent in ((None, body), *packed):
        headers = {"Content-Encoding": encoding} if encoding else {}
        response = served.client.post(path, content=sent, headers=headers)
        assert response.status_code == 200
        assert response.json() == (plain := plain or response.json())
    response = served.client.post(path, content=body, headers={"Content-Encoding": "br"})
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "gzip, deflate"
    assert "Content-Encoding 'br' is not supported" in response.json()["error"]


def test_predictions_are_in_the_order_of_the_instances(served: Service) -> None:
    pictures = [np.roll(PICTURE, shift, axis=1) for shift in range(4)]
    together = predict(served, "digits", [picture.tolist() for picture in pictures]).json()["predictions"]
    alone = [predict(served, "digits", [picture.tolist()]).json()["predictions"][0] for picture in pictures]
    assert [one["index"] for one in together] == [one["index"] for one in alone]
    assert len({one["index"] for one in together}) > 1


def test_predict_takes_rows_as_objects_or_lists_of_large_numbers(served: Service) -> None:
    instances = [{"income": 1e9 + 5, "age": 50}, [30, 1e9 - 10]]
    assert predict(served, "rows", instances).json() == {"predictions": [[1.0, 1.0], [-1.0, -2.0]]}


def test_predict_takes_several_inputs_and_returns_outputs_by_name(served: Service) -> None:
    instances = [{"count": [1, 2], "flag": True}, {"count": [3, 4], "flag": False}]
    assert predict(served, "pair", instances).json()["predictions"] == [
        {"product": 3.0, "opposite": False},
        {"product": 7.0, "opposite": True},
    ]


def test_regression_answers_with_values_names_and_units(bundles: BundleWriter, start: StartService) -> None:
    targets = (Target(name="age", unit="years", mean=40, std=10), Target(name="income", mean=1e9, std=5))
    folder = bundles.rows("values")
    bundles.change_manifest(folder, schema_version=5, card=card_of(Regression(output="output", targets=targets), None))
    service = start(bundles.root)
    response = predict(service, "values", [[50, 1e9 + 5], [30, 1e9]])
    assert response.json()["predictions"] == [
        {"values": [{"name": "age", "value": 1.0, "unit": "years"}, {"name": "income", "value": 1.0, "unit": None}]},
        {"values": [{"name": "age", "value": -1.0, "unit": "years"}, {"name": "income", "value": 0.0, "unit": None}]},
    ]
    described = service.client.get("/v1/models").text
    assert '"unit":"years"' in described


def test_labels_that_do_not_exclude_each_other_are_given_from_the_threshold_on(
    bundles: BundleWriter, start: StartService
) -> None:
    task = MultiLabel(output="logits", threshold=0.3)
    bundles.digits(
        1, "flags", bias=(-2, 1, 0), card=SourceCard(preprocessing=DIGITS, labels=LABELS, task=task), schema_version=5
    )
    service = start(bundles.root)
    logits = logits_of(PICTURE) + np.array([-2, 1, 0])
    expected = 1 / (1 + np.exp(-logits))
    [got] = predict(service, "flags", [PICTURE.tolist()]).json()["predictions"]
    np.testing.assert_allclose(got["probabilities"], expected, rtol=1e-5)
    order = [index for index in np.argsort(-expected) if expected[index] >= 0.3]
    assert [one["index"] for one in got["labels"]] == order
    assert [one["label"] for one in got["labels"]] == [LABELS[index] for index in order]
    ranked = service.client.post("/v1/models/flags:classify", content=png_of(PICTURE)).json()["classes"]
    assert [one["index"] for one in ranked] == np.argsort(-expected).tolist()


def test_regression_of_pictures_is_not_classified(bundles: BundleWriter, start: StartService) -> None:
    targets = tuple(Target(name=name, mean=0, std=1) for name in "abc")
    task = Regression(output="logits", targets=targets)
    bundles.digits(1, "values", card=SourceCard(preprocessing=DIGITS, task=task))
    response = start(bundles.root).client.post("/v1/models/values:classify", content=png_of(PICTURE))
    assert (response.status_code, "predicts values, not classes" in response.text) == (400, True)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Regression(output="nothing", targets=(Target(name="a", mean=0, std=1),)), "there is no such output"),
        (Regression(output="output", targets=(Target(name="a", mean=0, std=1),)), "has 1 values, and the output"),
        (MultiLabel(output="output"), "has 0 labels, and the output"),
    ],
)
def test_bundle_whose_task_is_not_that_of_an_output_is_not_loaded(
    bundles: BundleWriter, start: StartService, task: Any, message: str
) -> None:
    folder = bundles.rows("values")
    bundles.change_manifest(folder, schema_version=5, card=card_of(task, None))
    body = start(bundles.root).client.get("/v1/models/values").text
    assert message in body


def card_of(task: Any, labels: Any) -> dict[str, Any]:
    return SourceCard(preprocessing=ROWS, labels=labels, task=task).model_dump(mode="json")


def test_instances_run_one_at_a_time_where_rows_depend_on_each_other(served: Service) -> None:
    assert predict(served, "one-by-one", [[2], [6]]).json() == {"predictions": [[1.0], [1.0]]}


def test_instances_run_one_at_a_time_where_the_row_axis_is_one(bundles: BundleWriter, start: StartService) -> None:
    bundles.identity("INT8", "fixed", shape=(1, 2))
    service = start(bundles.root)
    assert predict(service, "fixed", [[1, 2], [3, 4]]).json() == {"predictions": [[1, 2], [3, 4]]}


def test_predict_of_a_model_with_fixed_rows_refers_to_infer(bundles: BundleWriter, start: StartService) -> None:
    bundles.identity("INT8", "four", shape=(4, 2))
    response = predict(start(bundles.root), "four", [[1, 2]])
    assert response.status_code == 400
    assert "use infer" in response.json()["error"]


def test_predict_returns_fp16_as_numbers(served: Service) -> None:
    assert predict(served, "identity-fp16", [[0.5, 2]]).json() == {"predictions": [[0.5, 2.0]]}


def test_predict_returns_strings(served: Service) -> None:
    assert predict(served, "identity-bytes", [["a", "ü"]]).json() == {"predictions": [["a", "ü"]]}


@pytest.mark.parametrize(
    ("model", "instances", "says"),
    [
        ("digits", [], "at least one instance"),
        ("digits", {}, "at least one instance"),
        (
            "digits",
            [PICTURE.tolist(), [[1, 2], [3, 4]]],
            "Instance 1: Expected an image of shape [1, 4, 4] or [4, 4], got shape [2, 2]",
        ),
        ("digits", [7], "got a single number"),
        ("digits", [[[1, 2, 3, 4]] * 3 + [[1, 2, 3]]], "not nested evenly"),
        ("digits", [[[1, 2, 3, True]] * 4], "not all numbers"),
        ("digits", [[["1", 2, 3, 4]] * 4], "not all numbers"),
        ("digits", [[[None, 2, 3, 4]] * 4], "not all numbers"),
        ("digits", [[[1e300, 2, 3, 4]] * 4], "not all finite"),
        ("digits", ["AAAA"], "not all numbers"),
        ("rows", [{"age": 1}], "lacks the columns ['income']"),
        ("rows", [{"age": 1, "income": 2, "size": 3}], "unknown columns ['size']"),
        ("rows", [[1, 2, 3]], "Expected a row of 2 numbers"),
        ("pair", [[1, 2]], "exactly the inputs ['count', 'flag']"),
        ("pair", [{"count": [1, 2], "flag": 1}], "Instance 0, input 'flag' is BOOL"),
        ("pair", [{"count": [1, 2, 3], "flag": True}], "has the shape [3]; the model takes [2]"),
        ("identity-int8", [[1, 2], [3]], "differ in shape"),
        ("identity-int8", [[1, 2.5]], "takes integers"),
    ],
)
def test_instance_that_does_not_fit_is_rejected(served: Service, model: str, instances: Any, says: str) -> None:
    response = predict(served, model, instances)
    assert response.status_code == 400
    assert says in response.json()["error"]


def test_classify_returns_classes_in_descending_order(served: Service) -> None:
    response = served.client.post("/v1/models/digits/versions/1:classify", content=png_of(PICTURE * 17))
    expected = softmax_by_definition(logits_of(PICTURE * 17 / 255 * 16))
    body = response.json()
    assert (body["model_name"], body["model_version"]) == ("digits", "1")
    assert [one["label"] for one in body["classes"]] == ["two", "one", "zero"]
    assert [one["index"] for one in body["classes"]] == [2, 1, 0]
    np.testing.assert_allclose([one["probability"] for one in body["classes"]], sorted(expected)[::-1], rtol=1e-5)


def test_classify_and_predict_agree(served: Service) -> None:
    pixels = (PICTURE * 15).round()
    classes = served.client.post("/v1/models/digits:classify", content=png_of(pixels)).json()["classes"]
    [prediction] = predict(served, "digits", [(pixels / 255 * 16).tolist()]).json()["predictions"]
    assert classes[0]["label"] == prediction["label"]
    assert classes[0]["probability"] == pytest.approx(prediction["probability"], rel=1e-5)


def test_top_limits_the_number_of_classes(served: Service) -> None:
    for top, count in (("1", 1), ("2", 2), ("99", 3)):
        response = served.client.post(f"/v1/models/digits:classify?top={top}", content=png_of(PICTURE))
        assert len(response.json()["classes"]) == count


@pytest.mark.parametrize("top", ["0", "-1", "x", "1.5", "", "²", "9" * 5000])
def test_top_that_is_no_positive_integer_is_rejected(served: Service, top: str) -> None:
    response = served.client.post("/v1/models/digits:classify", params={"top": top}, content=png_of(PICTURE))
    assert response.status_code == 400
    assert "'top'" in response.json()["error"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "The body is empty"),
        (b"hello", "neither a PNG nor a JPEG"),
        (png_of(np.zeros((64, 64)))[:60], "damaged"),
        (b"GIF89a" + bytes(20), "neither a PNG nor a JPEG"),
    ],
)
def test_body_that_is_no_image_is_rejected(served: Service, content: bytes, says: str) -> None:
    response = served.client.post("/v1/models/digits:classify", content=content)
    assert response.status_code == 400
    assert says in response.json()["error"]


def test_form_is_rejected_with_a_hint(served: Service) -> None:
    response = served.client.post("/v1/models/digits:classify", files={"file": png_of(PICTURE)})
    assert response.status_code == 400
    assert "The body is a form" in response.json()["error"]


def test_image_over_the_pixel_limit_is_rejected(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    service = start(bundles.root, max_image_pixels=99)
    response = service.client.post("/v1/models/digits:classify", content=png_of(np.zeros((10, 10))))
    assert response.status_code == 400
    assert "10 × 10 pixels, over the limit of 99" in response.json()["error"]


def test_model_that_takes_pixels_predicts_like_one_that_takes_tensors(
    bundles: BundleWriter, start: StartService
) -> None:
    """Both return the same predictions for the same raw inputs; infer takes pixels."""
    bundles.digits()
    bundles.pixels()
    service = start(bundles.root)
    picture = np.array([[0.0, 16.0, 3.0, 8.0]] * 4)

    responses = [predict(service, name, [picture.tolist()]).json()["predictions"][0] for name in ("digits", "pixels")]
    classes = [
        service.client.post(f"/v1/models/{name}:classify", content=png_of(picture * 255 / 16)).json()["classes"]
        for name in ("digits", "pixels")
    ]
    pixels = np.rint(picture * 255 / 16).astype(int)
    record = {"name": "input", "shape": [1, 1, 4, 4], "datatype": "UINT8", "data": pixels.ravel().tolist()}
    logits = service.client.post("/v2/models/pixels/infer", json={"inputs": [record]}).json()["outputs"][0]["data"]

    np.testing.assert_allclose(responses[0]["probabilities"], responses[1]["probabilities"], rtol=0.02)
    assert [one["label"] for one in classes[0]] == [one["label"] for one in classes[1]]
    np.testing.assert_allclose(softmax_by_definition(np.array(logits)), responses[1]["probabilities"], rtol=1e-5)
    assert service.client.get("/v2/models/pixels").json()["inputs"][0]["datatype"] == "UINT8"


def test_classify_names_the_reason_why_a_model_does_not_support_it(
    served: Service, bundles: BundleWriter, start: StartService
) -> None:
    response = served.client.post("/v1/models/rows:classify", content=png_of(PICTURE))
    assert response.status_code == 400
    assert response.json() == {
        "error": "Model 'rows' does not take images: its manifest has no preprocessing for them."
    }
    from_digits = bundles.digits()
    card = SourceCard(preprocessing={"kind": "image", "channels": 1, "height": 4, "width": 4, "mean": [0], "std": [1]})
    bundles.change_manifest(from_digits, card=card.model_dump(mode="json"))
    response = start(bundles.root).client.post("/v1/models/digits:classify", content=png_of(PICTURE))
    assert response.status_code == 400
    assert response.json() == {
        "error": "Model 'digits' does not return classes: its manifest has no labels and logits."
    }


def pixel_model(bundles: BundleWriter, labels: tuple[str, ...], classes: int = 3) -> None:
    """A network that returns its image of `classes` channels as logits of each pixel."""
    spec = {"datatype": "FP32", "shape": (-1, classes, 2, 2)}
    node = [helper.make_node("Identity", ["input"], ["output"])]
    card = SourceCard(labels=labels, logits=("output",))
    bundles.write("pixels", 1, node, [TensorSpec(name="input", **spec)], [TensorSpec(name="output", **spec)], card=card)


def test_predict_returns_a_mask_for_logits_of_pixels(bundles: BundleWriter, start: StartService) -> None:
    pixel_model(bundles, ("a", "b", "c"))
    service = start(bundles.root)
    logits = np.random.default_rng(0).normal(size=(2, 3, 2, 2))
    response = predict(service, "pixels", logits.tolist())
    assert response.json() == {"predictions": [{"mask": mask} for mask in logits.argmax(axis=1).tolist()]}
    tie = np.zeros((1, 3, 2, 2))
    assert predict(service, "pixels", tie.tolist()).json()["predictions"] == [{"mask": [[0, 0], [0, 0]]}]


def test_labels_that_differ_from_the_classes_of_a_pixel_are_a_failed_run(
    bundles: BundleWriter, start: StartService
) -> None:
    pixel_model(bundles, ("a", "b"))
    [model] = start(bundles.root).client.get("/v1/models").json()["models"]
    assert "2 labels for 3 logits" in model["versions"][0]["reason"]


def test_classify_of_a_model_of_pixel_classes_refers_to_predict(bundles: BundleWriter, start: StartService) -> None:
    pixel_model(bundles, ("a",), classes=1)
    card = {"kind": "image", "channels": 1, "height": 2, "width": 2, "mean": [0], "std": [1]}
    folder = bundles.root / "pixels" / "1"
    changed = SourceCard(preprocessing=card, labels=("a",), logits=("output",)).model_dump(mode="json")
    bundles.change_manifest(folder, card=changed)
    response = start(bundles.root).client.post("/v1/models/pixels:classify", content=png_of(PICTURE))
    assert response.status_code == 400
    says = "Model 'pixels' classifies pixels, not images; use :predict or infer."
    assert response.json() == {"error": says}


def test_softmax_neither_overflows_nor_rounds(bundles: BundleWriter, start: StartService) -> None:
    card = SourceCard(labels=("a", "b"), logits=("output",))
    spec = {"datatype": "FP32", "shape": (-1, 2)}
    node = [helper.make_node("Identity", ["input"], ["output"])]
    bundles.write("m", 1, node, [TensorSpec(name="input", **spec)], [TensorSpec(name="output", **spec)], card=card)
    [one, other] = predict(start(bundles.root), "m", [[1000, 990], [-1000, -1000]]).json()["predictions"]
    assert one["probabilities"][1] == pytest.approx(1 / (1 + np.exp(10.0)), rel=1e-12)
    assert other["probabilities"] == [0.5, 0.5]
    assert other["label"] == "a"
