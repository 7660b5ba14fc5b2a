"""Requirements of a proof: each one holds for a network that meets it, and names what it found in one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from normfold.contract.precision.record import (
    AccuracyChange,
    Agreement,
    Precision,
    PrecisionKind,
    PrecisionProof,
    Recipe,
    ValueChange,
)
from normfold.export.errors import PrecisionLossError
from normfold.export.quantize.proof.requirements import is_faster, require

PROOF = PrecisionProof(
    processor="p",
    rows=100,
    rows_from="samples",
    outputs={"y": 30.0},
    pair_sum=32640,
    fused_sqnr_db=40.0,
    agreement=Agreement(share=1.0, lower_bound=0.96, upper_bound=1.0),
    time_ratio={1: 0.9, 32: 0.5},
    size_ratio=0.3,
)


def int8(recipe: Recipe | None = None, **changes: Any) -> Precision:
    return Precision(kind=PrecisionKind.INT8, recipe=recipe or Recipe(), proof=PROOF.model_copy(update=changes))


def test_network_that_meets_all_requirements_passes() -> None:
    require(int8())
    require(int8(time_ratio={1: 1.2, 32: 0.5}))
    require(int8(values=ValueChange(difference=0.09)))
    require(int8(values=ValueChange(difference=0.5, r2_before=0.5, r2_after=0.495)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pair_sum": 33000.0}, "33000: more than the 32767 that fit into 16 bits"),
        ({"fused_sqnr_db": 24.9}, r"24\.9 dB apart, and at least 25 are needed"),
        ({"outputs": {"y": 9.9}}, r"Output 'y' of the int8 network has 9\.9 dB"),
        ({"outputs": {"y": 9.9}, "rows_from": "random"}, "give samples of its inputs with `samples`"),
        ({"agreement": Agreement(share=0.9, lower_bound=0.8, upper_bound=0.95)}, r"float32 for 0\.9000 of 100 rows"),
        ({"accuracy": AccuracyChange(before=0.99, after=0.97)}, r"accuracy 0\.9700 on 100 rows, float32 0\.9900"),
        (
            {"values": ValueChange(difference=0.2)},
            "by 0.2 standard deviations on 100 rows, .* R²",
        ),
        ({"values": ValueChange(difference=0.2, r2_before=0.5, r2_after=0.45)}, r"R² 0\.4500 .*, float32's 0\.5000"),
        ({"time_ratio": {1: 1.05, 32: 1.0}}, r"not faster .* \(1\.05 for 1 row, 1\.00 for 32 rows\); `force`"),
    ],
)
def test_network_that_misses_a_requirement_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PrecisionLossError, match=message) as raised:
        require(int8(**changes))
    assert str(raised.value).endswith("Nothing was written.")


def test_doubt_about_the_classes_is_named_with_its_remedy() -> None:
    doubtful = int8(agreement=Agreement(share=0.9, lower_bound=0.8, upper_bound=0.95))

    with pytest.raises(PrecisionLossError, match=r"outputs hold classes: if not, quantise with `max_drop` 1\."):
        require(doubtful, classes_are_known=False)
    with pytest.raises(PrecisionLossError, match=r"over 0\.01 \(`max_drop`\)\. Nothing"):
        require(doubtful)


def test_accuracy_counts_and_not_agreement_where_labels_exist() -> None:
    require(
        int8(
            agreement=Agreement(share=0.9, lower_bound=0.8, upper_bound=0.95),
            accuracy=AccuracyChange(before=0.97, after=0.97),
        )
    )


def test_greater_drop_is_allowed_by_the_recipe() -> None:
    require(int8(Recipe(max_drop=0.05), accuracy=AccuracyChange(before=0.99, after=0.95)))


def test_slower_network_is_written_if_forced_or_if_speed_does_not_matter() -> None:
    slow = {"time_ratio": {1: 1.3, 32: 1.1}}
    assert not is_faster(int8(**slow).proof)
    require(int8(Recipe(force=True), **slow))
    require(int8(**slow), must_be_faster=False)


def test_float16_need_not_be_faster_and_must_be_nearer() -> None:
    proof = PROOF.model_copy(update={"outputs": {"y": 60.0}, "time_ratio": {1: 1.1}, "pair_sum": None})
    require(Precision(kind=PrecisionKind.FLOAT16, recipe=Recipe(), proof=proof))
    with pytest.raises(PrecisionLossError, match="at least 40 are needed"):
        require(Precision(kind=PrecisionKind.FLOAT16, recipe=Recipe(), proof=PROOF))
