"""Models that are made to take 8-bit pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from normfold.contract.preprocess import ImagePreprocessing, RowPreprocessing, SequencePreprocessing
from normfold.export.errors import ModelFileError, PixelError
from normfold.export.files.fold_file import fold_file
from normfold.export.fold.fold import fold
from normfold.export.fold.report import FoldReport
from normfold.export.graph.pixels import FromPixels, Pixels, from_pixels
from normfold.export.verify.verify import verify
from tests.support.onnx_models import COLOUR_CARD, batchnorm, colour_convnet, model, operators, run32, statistics


@pytest.mark.parametrize("preprocessing", [COLOUR_CARD, None])
def test_pixels_survive_their_standardisation(preprocessing: Any) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    standard = Pixels.of(preprocessing)

    tensor = standard.standardised(pixels, ir.DataType.FLOAT)

    np.testing.assert_array_equal(standard.pixels_of(tensor), pixels)
    assert standard.pixels_of(tensor - 999).max() == 0
    assert standard.pixels_of(tensor + 999).min() == 255


def taken(source: onnx.ModelProto, preprocessing: ImagePreprocessing | None) -> tuple[onnx.ModelProto, FoldReport]:
    working = ir.from_proto(source)
    report = fold(working, pixels=FromPixels(preprocessing))
    result = ir.to_proto(working)
    onnx.checker.check_model(result, full_check=True)
    return result, report


def assert_takes_pixels(source: onnx.ModelProto, result: onnx.ModelProto, preprocessing: Any) -> None:
    """Check that the result makes of pixels what the source makes of what the card makes of them, or of floats."""
    (port,) = result.graph.input
    assert port.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    pixels = np.random.default_rng(5).integers(0, 256, (2, 3, 6, 6), np.uint8)
    tensor = pixels.astype(np.float32) if preprocessing is None else preprocessing.standardise(pixels)
    (wanted,), (got,) = run32(source, {"x": tensor}), run32(result, {"x": pixels})
    assert np.abs(wanted - got).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(("pads", "left"), [(1, ("Add",)), (0, ())])
def test_the_cards_standardisation_goes_into_the_first_conv(pads: int, left: tuple[str, ...]) -> None:
    """Zero padding stands for the mean, so with padding the mean is still taken off before; the border is exact."""
    source = colour_convnet(np.random.default_rng(0), pads=pads)

    result, report = taken(source, COLOUR_CARD)

    assert operators(result) == ["Cast", *left, "Conv", "Relu"]
    assert report.input is not None
    assert (report.input.name, report.input.left) == ("x", left)
    assert_takes_pixels(source, result, COLOUR_CARD)


def test_a_mean_of_zero_leaves_nothing_before_a_padded_conv() -> None:
    card = COLOUR_CARD.model_copy(update={"mean": (0.0, 0.0, 0.0)})
    source = colour_convnet(np.random.default_rng(1))

    result, _ = taken(source, card)

    assert operators(result) == ["Cast", "Conv", "Relu"]
    assert_takes_pixels(source, result, card)


@pytest.mark.parametrize("pads", [0, 1])
def test_a_network_that_standardises_itself_gets_a_cast_alone(pads: int) -> None:
    front = [
        helper.make_node("Div", ["x", "full"], ["d"]),
        helper.make_node("Sub", ["d", "mean"], ["m"]),
        helper.make_node("Div", ["m", "std"], ["s"]),
    ]
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (COLOUR_CARD.mean, COLOUR_CARD.std))
    more = {"full": np.array(255.0, np.float32), "mean": mean, "std": std}
    source = colour_convnet(np.random.default_rng(2), front, pads, **more)

    result, report = taken(source, None)

    assert operators(result) == ["Cast", *["Sub"] * pads, "Conv", "Relu"]
    assert report.input is not None
    assert report.input.left == ("Sub",) * pads
    assert_takes_pixels(source, result, None)


def test_a_batchnorm_in_front_takes_the_standardisation() -> None:
    rng = np.random.default_rng(3)
    source = colour_convnet(rng, [batchnorm("x", "s", "front")], **statistics(rng, 3, "front", np.float32))

    result, report = taken(source, COLOUR_CARD)

    assert operators(result) == ["Cast", "BatchNormalization", "Conv", "Relu"]
    assert report.input is not None
    assert report.input.left == ()
    assert_takes_pixels(source, result, COLOUR_CARD)


def test_a_grey_picture_has_scalars_and_folds_as_well() -> None:
    rng = np.random.default_rng(4)
    card = ImagePreprocessing(channels=1, height=6, width=6, value_max=16.0, mean=(0.3,), std=(0.4,))
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv"), helper.make_node("Relu", ["c"], ["y"])]
    constants = {"w": rng.normal(size=(4, 1, 3, 3)).astype(np.float32)}
    source = model(nodes, {"x": ["n", 1, 6, 6]}, ["y"], constants, dtype=np.float32)

    result, _ = taken(source, card)

    assert operators(result) == ["Cast", "Conv", "Relu"]
    pixels = rng.integers(0, 256, (2, 1, 6, 6), np.uint8)
    (wanted,) = run32(source, {"x": card.standardise(pixels * np.float64(16 / 255))})
    (got,) = run32(result, {"x": pixels})
    assert np.abs(wanted - got).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0, 1])
def test_a_wrong_standardisation_is_caught(wrong: int, tmp_path: Path) -> None:
    onnx.save(colour_convnet(np.random.default_rng(6)), tmp_path / "a.onnx")
    right = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx", pixels=FromPixels(COLOUR_CARD))
    changes = [{"std": (0.229, 0.224, 0.226)}, {"mean": (0.485, 0.457, 0.406)}]
    other = FromPixels(COLOUR_CARD.model_copy(update=changes[wrong]))

    assert right.verification is not None
    assert right.verification.passes
    assert not verify(tmp_path / "a.onnx", tmp_path / "b.onnx", pixels=other).passes


def test_given_pixels_verify_the_fold_too(tmp_path: Path) -> None:
    onnx.save(colour_convnet(np.random.default_rng(7)), tmp_path / "a.onnx")
    np.savez(tmp_path / "pixels.npz", x=np.arange(216, dtype=np.uint8).reshape(2, 3, 6, 6))

    folded = fold_file(
        tmp_path / "a.onnx", tmp_path / "b.onnx", inputs=tmp_path / "pixels.npz", pixels=FromPixels(COLOUR_CARD)
    )

    assert folded.verification is not None
    assert folded.verification.batchable


def test_verify_needs_the_card_where_a_model_takes_pixels(tmp_path: Path) -> None:
    onnx.save(colour_convnet(np.random.default_rng(8)), tmp_path / "a.onnx")
    fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx", pixels=FromPixels(COLOUR_CARD))

    with pytest.raises(ModelFileError, match="has other inputs"):
        verify(tmp_path / "a.onnx", tmp_path / "b.onnx")


@pytest.mark.parametrize(
    ("shapes", "preprocessing", "message"),
    [
        ({"x": ["n", 3, 6, 6]}, None, "Nothing says how pixels become the input 'x'"),
        ({"x": ["n", 4, 6, 6]}, COLOUR_CARD, "3 channels, on axis 1 of four; the input 'x' is ['n', 4, 6, 6]"),
        ({"x": ["n", 6, 6, 3]}, COLOUR_CARD, "3 channels, on axis 1 of four"),
        ({"x": ["n", "h", "w", 3]}, COLOUR_CARD, "with the channels last"),
        ({"x": ["n", 3, 6, 6, 6]}, COLOUR_CARD, "3 channels, on axis 1 of four"),
        ({"x": ["n", 3]}, COLOUR_CARD, "'x' is not a float image"),
        ({"x": ["n", 3, 6, 6], "z": ["n", 3, 6, 6]}, COLOUR_CARD, "one input; this one has ['x', 'z']"),
    ],
)
def test_model_that_cannot_take_pixels_is_named_with_the_reason(shapes: Any, preprocessing: Any, message: str) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), *[helper.make_node("Relu", [name], ["v"]) for name in shapes][1:]]
    source = model(nodes, shapes, ["y"], {}, dtype=np.float32)

    with pytest.raises(PixelError) as raised:
        taken(source, preprocessing)

    assert message in str(raised.value)


def test_rows_and_sequences_are_no_pixels() -> None:
    with pytest.raises(PixelError, match="of rows of a table; only images"):
        from_pixels(RowPreprocessing(columns=("a",), mean=(0.0,), std=(1.0,)))
    with pytest.raises(PixelError, match="of sequences; only images"):
        from_pixels(SequencePreprocessing(channels=("a",), length=3, mean=(0.0,), std=(1.0,)))


def test_pixels_are_standardised_as_the_card_does_it() -> None:
    pixels = np.random.default_rng(9).integers(0, 256, (2, 3, 6, 6), np.uint8)

    ours = Pixels.of(COLOUR_CARD).standardised(pixels, ir.DataType.FLOAT)

    np.testing.assert_allclose(ours, COLOUR_CARD.standardise(pixels), rtol=1e-6, atol=1e-6)
