"""Equal answers: within the tolerance that a bundle states, by its precision and by the kind of its outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from normfold.contract.manifest import Manifest, OutputError, TensorSpec, read_manifest
from normfold.contract.precision.record import Precision, PrecisionKind, PrecisionProof, Recipe
from normfold.service.runtime.tuning.tolerance import Tolerance, stated_tolerance
from tests.support.bundles import BundleWriter

WANTED = np.linspace(-1, 1, 1000, dtype=np.float32)


@pytest.fixture
def manifest(bundles: BundleWriter) -> Manifest:
    return read_manifest(Path(bundles.digits()) / "manifest.json")


def test_tolerance_of_float32_is_what_verification_allowed(manifest: Manifest) -> None:
    error = OutputError(error=1e-7, noise=1e-7, allowed=2e-6)
    stated = stated_tolerance(manifest.model_copy(update={"verification": {"logits": error}}))
    assert stated == Tolerance({"logits": 2e-6}, {})


@pytest.mark.parametrize("verification", [{}, {"logits": OutputError(error=0, noise=0, allowed=0)}])
def test_bundle_without_a_statement_has_no_tolerance(manifest: Manifest, verification: dict[str, OutputError]) -> None:
    assert stated_tolerance(manifest.model_copy(update={"verification": verification})) is None


def test_output_of_integers_needs_no_statement(manifest: Manifest) -> None:
    outputs = (TensorSpec(name="class", datatype="INT64", shape=(-1,)),)
    assert stated_tolerance(manifest.model_copy(update={"outputs": outputs})) == Tolerance({}, {})


def test_tolerance_of_lower_precision_is_twice_the_distance_of_its_proof(manifest: Manifest) -> None:
    proof = PrecisionProof(processor="p", rows=4, rows_from="random", outputs={"logits": 60.0}, size_ratio=0.5)
    precision = Precision(kind=PrecisionKind.FLOAT16, recipe=Recipe(), proof=proof)
    stated = stated_tolerance(manifest.model_copy(update={"precision": precision}))
    assert stated is not None
    assert stated.decibels["logits"] == pytest.approx(60 - 6.0206, abs=1e-4)
    assert stated.find_difference({"logits": WANTED}, {"logits": WANTED * (1 + 1e-3)}) == ""
    assert "dB near" in stated.find_difference({"logits": WANTED}, {"logits": WANTED * (1 + 4e-3)})


@pytest.mark.parametrize(
    ("got", "difference"),
    [
        (WANTED + np.float32(1e-3), ""),
        (WANTED + np.float32(3e-3), "'y' differs by 1.5e-03 of its range, 1.0e-03 are allowed"),
        (WANTED[:-1], "'y' has the shape [999] instead of [1000]"),
        (np.where(WANTED == 1, np.nan, WANTED), "'y' is not finite where it was, or finite where it was not"),
    ],
)
def test_difference_is_relative_to_the_range(got: np.ndarray, difference: str) -> None:
    assert Tolerance({"y": 1e-3}, {}).find_difference({"y": WANTED}, {"y": got}) == difference


@pytest.mark.parametrize("other", [np.array([1, 2, 4]), np.array([True, False, True])])
def test_outputs_without_fractions_are_equal_or_differ(other: np.ndarray) -> None:
    tolerance, changed = Tolerance({}, {}), np.roll(other, 1)
    assert tolerance.find_difference({"y": other}, {"y": other.copy()}) == ""
    assert tolerance.find_difference({"y": other}, {"y": changed}) == "'y' differs"


@pytest.mark.parametrize(("value", "equal"), [(5.0, True), (5.000001, False)])
def test_constant_output_has_no_range_and_must_be_equal(value: float, equal: bool) -> None:
    wanted = np.full(4, 5.0)
    assert (Tolerance({"y": 1.0}, {}).find_difference({"y": wanted}, {"y": np.full(4, value)}) == "") is equal
