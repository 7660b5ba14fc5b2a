"""Which cause some figures have, and what the sentences say."""

from __future__ import annotations

import pytest

from normfold.models.batchnorm.during_training.causes import TrainingFacts, find_causes
from normfold.models.statistics.epochs import EpochStatistics, LayerFigures

SOUND = LayerFigures(batch=0.02, noise=0.15, inference=0.12, variance_ratio=0.95, batches=100)
"""As of an mlp after five epochs on digits."""


def sentences(
    *layers: LayerFigures,
    momentum: float | None = 0.1,
    steps: int = 100,
    batch_rows: int = 64,
    dropout: dict[str, float] | None = None,
) -> list[str]:
    statistics = EpochStatistics(epoch=5, layers={f"norm{index}": layer for index, layer in enumerate(layers)})
    facts = TrainingFacts(batch_rows, steps, dict.fromkeys(statistics.layers, momentum), dropout or {})
    return [cause.sentences for cause in find_causes(statistics, facts)]


def changed(**figures: float | None) -> LayerFigures:
    return SOUND.model_copy(update=figures)


def test_sound_figures_have_no_cause() -> None:
    assert sentences(SOUND, SOUND) == []
    assert sentences(SOUND, dropout={"norm0": 0.5}) == []
    assert sentences(changed(batch=None, noise=None, inference=None, variance_ratio=None)) == []


def test_momentum_too_small_for_the_steps_is_named_with_one_that_is_not() -> None:
    (found,) = sentences(SOUND, changed(batch=0.9), changed(batch=0.7, inference=1.1), momentum=0.001)
    assert "by 1.1 standard deviations (2 of 3 BatchNorms, most in 'norm2')" in found
    assert "with momentum 0.001, the values from before the run still weigh 90% after 100 steps" in found
    assert "a momentum of 0.03 or more" in found
    assert 0.97**100 < 0.05 < 0.971**100


@pytest.mark.parametrize(("momentum", "average"), [(0.1, "their moving average"), (None, "an average over all")])
def test_weights_that_change_faster_than_the_average_are_named(momentum: float | None, average: str) -> None:
    (found,) = sentences(changed(batch=0.5), momentum=momentum)
    assert f"the weights changed faster than {average}" in found
    assert "lower `lr`" in found


def test_dropout_before_a_layer_is_named_if_its_variance_falls_in_inference() -> None:
    layer = changed(inference=0.4, variance_ratio=0.55)
    (found,) = sentences(layer, SOUND, dropout={"norm0": 0.5, "norm1": 0.5})
    assert "have 0.55 times the running variance (1 of 2 BatchNorms, most in 'norm0')" in found
    assert "behind a dropout of p = 0.5. Move the dropout behind the last BatchNorm" in found


def test_inputs_that_differ_in_inference_without_a_dropout_are_named() -> None:
    (found,) = sentences(changed(inference=0.4, variance_ratio=0.55))
    assert "In inference the inputs of BatchNorm differ from the running statistics by 0.4 standard" in found


@pytest.mark.parametrize(("rows", "count"), [(4, 1), (31, 1), (32, 0), (64, 0)])
def test_noise_is_named_for_small_batches_alone(rows: int, count: int) -> None:
    found = sentences(changed(noise=0.6), batch_rows=rows)
    assert len(found) == count
    assert all(f"by 0.6 standard deviations (1 of 1 BatchNorms, most in 'norm0'): a batch has {rows} rows" in text
               and "`batch_size` 32" in text for text in found)  # fmt: skip


def test_each_cause_is_named_once_and_the_worst_layer_first() -> None:
    found = sentences(changed(batch=0.5), changed(noise=0.7), changed(batch=0.8), batch_rows=8)
    assert ["most in 'norm2'" in found[0], "most in 'norm1'" in found[1], len(found)] == [True, True, 2]
