"""Signal to noise, the processor's name, and the inputs that export and service both make."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.contract.manifest import TensorSpec
from normfold.contract.precision.check_inputs import FREE_SIZE, ROWS, make_check_inputs
from normfold.contract.precision.processor import describe_processor, processor_name
from normfold.contract.precision.signal_to_noise import MAX_DB, SignalToNoise, signal_to_noise_db


def test_signal_to_noise_is_ten_times_the_logarithm_of_the_ratio_of_squares() -> None:
    reference = np.array([3.0, 4.0])

    assert signal_to_noise_db(reference, reference + np.array([0.03, 0.04])) == pytest.approx(40.0)
    assert signal_to_noise_db(reference, 2 * reference) == pytest.approx(0.0)


def test_signal_to_noise_of_equal_arrays_is_the_maximum() -> None:
    assert signal_to_noise_db(np.zeros(3), np.zeros(3)) == MAX_DB


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_value_that_is_not_finite_makes_the_ratio_the_minimum(wrong: float) -> None:
    assert signal_to_noise_db(np.ones(2), np.array([1.0, wrong])) == -MAX_DB


def test_signal_to_noise_of_float16_is_computed_in_float64() -> None:
    large = np.full(4, 60000, np.float16)

    assert signal_to_noise_db(large, large) == MAX_DB


def test_sums_over_two_pairs_are_those_of_one_longer_pair() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 10)), rng.normal(size=(2, 10))
    sums = SignalToNoise()
    for pair in (one, two):
        sums.add(*pair)

    assert sums.db == pytest.approx(signal_to_noise_db(*np.concatenate([one, two], axis=1)))


def test_processor_is_named_with_its_instructions_for_integers() -> None:
    text = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512_vnni avx_fake\n"

    assert describe_processor(text).endswith("AMD EPYC (avx2, avx512_vnni)")
    assert describe_processor(text.replace(" avx512_vnni", "")).endswith("AMD EPYC (avx2)")


def test_processor_without_a_model_in_cpuinfo_has_a_name() -> None:
    assert describe_processor("")
    assert "(i8mm)" in describe_processor("processor : 0\nFeatures : fp i8mm\n")
    assert processor_name() == processor_name()


def test_check_inputs_are_the_same_each_time_and_of_the_datatypes() -> None:
    specs = [
        TensorSpec(name="a", datatype="FP16", shape=(-1, 3)),
        TensorSpec(name="b", datatype="UINT8", shape=(-1, -1)),
        TensorSpec(name="c", datatype="INT64", shape=(2, 4)),
        TensorSpec(name="d", datatype="BOOL", shape=()),
    ]

    first, second = make_check_inputs(specs), make_check_inputs(specs)

    assert first is not None
    assert second is not None
    assert {name: (array.dtype.name, array.shape) for name, array in first.items()} == {
        "a": ("float16", (ROWS, 3)),
        "b": ("uint8", (ROWS, FREE_SIZE)),
        "c": ("int64", (2, 4)),
        "d": ("bool", ()),
    }
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_check_inputs_have_the_sizes_of_the_card() -> None:
    found = make_check_inputs([TensorSpec(name="x", datatype="FP32", shape=(-1, 1, -1, -1))], (1, 8, 6))

    assert found is not None
    assert found["x"].shape == (ROWS, 1, 8, 6)


def test_text_has_no_check_inputs() -> None:
    assert make_check_inputs([TensorSpec(name="x", datatype="BYTES", shape=(-1, 1))]) is None
