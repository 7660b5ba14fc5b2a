"""Decoding of nested lists to raw units, and standardisation to the network's tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from normfold.contract.errors import RawInputError
from normfold.contract.preprocess import ImagePreprocessing, RowPreprocessing, SequencePreprocessing

DIGITS = ImagePreprocessing(channels=1, height=2, width=3, value_max=16, mean=(0.25,), std=(0.5,))
COLOUR = ImagePreprocessing(channels=3, height=2, width=2, mean=(0.1, 0.2, 0.3), std=(1, 2, 4))
ROW = RowPreprocessing(columns=("age", "income"), mean=(40, 1e9), std=(10, 2))
SEQUENCE = SequencePreprocessing(channels=("heat", "load"), length=3, mean=(1e9, 4), std=(2, 0.5))
INTENSITIES = st.floats(0, 16)


@given(st.lists(st.lists(INTENSITIES, min_size=3, max_size=3), min_size=2, max_size=2))
def test_image_is_standardised_by_its_formula(pixels: list[list[float]]) -> None:
    raw = DIGITS.decode(pixels)
    assert (raw.dtype, raw.shape) == (np.float32, (1, 2, 3))
    tensor = DIGITS.standardise(raw)
    assert (tensor.dtype, tensor.shape) == (np.float32, (1, 2, 3))
    np.testing.assert_allclose(tensor[0], (np.array(pixels) / 16 - 0.25) / 0.5, rtol=1e-5, atol=1e-6)


def test_standardise_uses_statistics_per_channel_and_takes_batches() -> None:
    raw = np.random.default_rng(0).uniform(0, 255, (5, 3, 2, 2))
    tensor = COLOUR.standardise(raw)
    for channel, (mean, std) in enumerate(zip(COLOUR.mean, COLOUR.std, strict=True)):
        np.testing.assert_allclose(tensor[:, channel], (raw[:, channel] / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(COLOUR.standardise(raw[2]), tensor[2])


def test_grey_image_needs_no_channel_axis() -> None:
    pixels = [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_array_equal(DIGITS.decode(pixels), DIGITS.decode([pixels]))


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2))
def test_row_is_standardised_by_its_formula_in_order_or_by_name(values: list[float]) -> None:
    tensor = ROW.standardise(ROW.decode(values))
    assert (tensor.dtype, tensor.shape) == (np.float32, (2,))
    np.testing.assert_allclose(tensor, [(values[0] - 40) / 10, (values[1] - 1e9) / 2], rtol=1e-6, atol=1e-6)
    named = {"income": values[1], "age": values[0]}
    np.testing.assert_array_equal(ROW.standardise(ROW.decode(named)), tensor)


def test_large_numbers_that_are_close_stay_distinct() -> None:
    tensors = [ROW.standardise(ROW.decode([40, 1e9 + step]))[1] for step in (0, 1, 2)]
    assert tensors == [0, 0.5, 1]


def test_sequence_is_standardised_per_channel_in_order_or_by_name() -> None:
    heat, load = [1e9 + 2, 1e9, 1e9 + 1], [4, 4.5, 3]
    tensor = SEQUENCE.standardise(SEQUENCE.decode([heat, load]))
    assert (tensor.dtype, tensor.shape) == (np.float32, (2, 3))
    np.testing.assert_array_equal(tensor, [[1, 0, 0.5], [0, 1, -2]])
    np.testing.assert_array_equal(SEQUENCE.standardise(SEQUENCE.decode({"load": load, "heat": heat})), tensor)
    np.testing.assert_array_equal(SEQUENCE.standardise(np.array([[heat, load]] * 4)), [tensor] * 4)


def test_integers_and_floats_may_be_mixed() -> None:
    np.testing.assert_array_equal(ROW.decode([1, 2.5]), [1, 2.5])
    np.testing.assert_array_equal(ROW.decode(np.array([1, 2], np.int8)), [1, 2])


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ([[1, 2, 3]], "got shape [1, 3]"),
        ([[1, 2], [3, 4]], "Expected an image of shape [1, 2, 3] or [2, 3]"),
        ([[1, 2, 3], [4, 5]], "not nested evenly"),
        (5, "got a single number"),
        (None, "not all numbers"),
        ("text", "not all numbers"),
        ({"a": 1}, "not all numbers"),
        ([], "got shape [0]"),
        ([[1, 2, 3], [4, 5, True]], "not all numbers"),
        ([[True, True, True], [False, False, False]], "not all numbers"),
        ([[1, 2, 3], [4, 5, "6"]], "not all numbers"),
        ([[1, 2, 3], [4, 5, None]], "not all numbers"),
        ([[1, 2, 3], [4, 5, 1j]], "not all numbers"),
        ([[1, 2, 3], [4, 5, 2**80]], "not all"),
        ([[1, 2, 3], [4, 5, float("nan")]], "not all finite"),
        ([[1, 2, 3], [4, 5, float("inf")]], "not all finite"),
        ([[1, 2, 3], [4, 5, 1e39]], "not all finite"),
        ([[1, 2, 3], [4, 5, -1]], "The value -1 is outside the range of the image's values, 0 to 16."),
        ([[1, 2, 3], [4, 5, 256]], "The value 256 is outside the range of the image's values, 0 to 16."),
        ([[1, 2, 3], [4, 5, 1e30]], "The value 1e+30 is outside"),
        ([[[1, 2, 3], [4, 5, 16.00001]]], "The value 16.00001 is outside"),
    ],
)
def test_image_of_wrong_numbers_is_rejected(instance: Any, message: str) -> None:
    with pytest.raises(RawInputError) as caught:
        DIGITS.decode(instance)
    assert message in str(caught.value)


@pytest.mark.parametrize("value_max", [16, 0.1, 1 / 3, 65535])
def test_ends_of_the_value_range_are_valid_after_rounding_to_float32(value_max: float) -> None:
    preprocessing = ImagePreprocessing(channels=1, height=1, width=3, value_max=value_max, mean=(0,), std=(1,))
    raw = preprocessing.decode([[-0.0, value_max, float(np.float32(value_max))]])
    np.testing.assert_array_equal(raw, np.array([[[0, value_max, value_max]]], np.float32))


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ({"age": 1}, "The row lacks the columns ['income']."),
        ({"age": 1, "income": 2, "size": 3}, "The row has unknown columns ['size']."),
        ({"agee": 1, "income": 2}, "The row lacks the columns ['age'] and has unknown columns ['agee']."),
        ({"age": [1], "income": [2]}, "Expected a row of 2 numbers, got shape [2, 1]."),
        ([1, 2, 3], "Expected a row of 2 numbers, got shape [3]."),
        (1, "Expected a row of 2 numbers, got a single number."),
        ({"age": None, "income": 1}, "Column 'age' takes numbers, not null."),
        ([2, "high"], "Column 'income' takes numbers, not the text 'high'."),
        ([True, 2], "Column 'age' takes numbers, not true."),
    ],
)
def test_row_of_wrong_columns_is_rejected(instance: Any, message: str) -> None:
    with pytest.raises(RawInputError) as caught:
        ROW.decode(instance)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ({"heat": [1, 2, 3]}, "The sequence lacks the channels ['load']."),
        ({"heat": [1, 2, 3], "load": [1, 2, 3], "x": 1}, "The sequence has unknown channels ['x']."),
        ({"heat": [1, 2, 3], "load": [1, 2]}, "The values are not nested evenly: rows differ in length."),
        ([[1, 2], [3, 4]], "Expected a sequence of 2 channels of 3 numbers, got shape [2, 2]."),
        ([[1, 2], [3, 4], [5, 6]], "Expected a sequence of 2 channels of 3 numbers, got shape [3, 2]."),
        (7, "Expected a sequence of 2 channels of 3 numbers, got a single number."),
        ([[1, 2, True], [3, 4, 5]], "The values are not all numbers."),
        ([[1, 2, 1e39], [3, 4, 5]], "The values are not all finite float32 numbers."),
    ],
)
def test_sequence_of_wrong_channels_is_rejected(instance: Any, message: str) -> None:
    with pytest.raises(RawInputError) as caught:
        SEQUENCE.decode(instance)
    assert str(caught.value) == message


INSTANCES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["age", "income"]), inner),
)


@pytest.mark.slow
@given(INSTANCES)
def test_any_instance_is_decoded_or_raises_raw_input_error(instance: Any) -> None:
    for preprocessing in (DIGITS, ROW, SEQUENCE):
        try:
            raw = preprocessing.decode(instance)
        except RawInputError:
            continue
        assert raw.shape == preprocessing.sample_shape
        assert np.isfinite(raw).all()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ImagePreprocessing, {"channels": 1, "height": 2, "width": 2, "mean": [0, 0], "std": [1]}),
        (ImagePreprocessing, {"channels": 1, "height": 2, "width": 2, "mean": [0], "std": [0]}),
        (ImagePreprocessing, {"channels": 2, "height": 2, "width": 2, "mean": [0, 0], "std": [1, 1]}),
        (
            ImagePreprocessing,
            {"channels": 1, "height": 2, "width": 2, "mean": [0], "std": [1], "value_max": float("inf")},
        ),
        (ImagePreprocessing, {"channels": 1, "height": 0, "width": 2, "mean": [0], "std": [1]}),
        (ImagePreprocessing, {"channels": 1, "height": 2, "width": 2, "mean": [float("nan")], "std": [1]}),
        (RowPreprocessing, {"columns": [], "mean": [], "std": []}),
        (RowPreprocessing, {"columns": ["a", "a"], "mean": [0, 0], "std": [1, 1]}),
        (RowPreprocessing, {"columns": ["a"], "mean": [0], "std": [-1]}),
        (RowPreprocessing, {"columns": ["a"], "mean": [0], "std": [1], "typo": 1}),
        (SequencePreprocessing, {"channels": [], "length": 1, "mean": [], "std": []}),
        (SequencePreprocessing, {"channels": ["a", "a"], "length": 1, "mean": [0, 0], "std": [1, 1]}),
        (SequencePreprocessing, {"channels": ["a"], "length": 0, "mean": [0], "std": [1]}),
        (SequencePreprocessing, {"channels": ["a", "b"], "length": 1, "mean": [0], "std": [1]}),
    ],
)
def test_invalid_preprocessing_is_refused(kind: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind(**fields)
