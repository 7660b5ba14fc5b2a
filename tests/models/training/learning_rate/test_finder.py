from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normfold.models.errors import TrainingWarning
from normfold.models.training.learning_rate.finder import HIGHEST, LOWEST, STEPS, analyse, range_test
from normfold.models.training.learning_rate.finder_plot import draw_range_test
from tests.support.training import MakeRun

RATES = np.geomspace(1e-6, 10, 100).tolist()


def test_suggestion_is_where_the_loss_falls_fastest() -> None:
    logs = np.log10(RATES)
    losses = 2 - 1.5 / (1 + np.exp(-6 * (logs + 2))) + np.where(logs > -0.5, 4 * (logs + 0.5), 0)  # steepest at 0.01
    noise = np.random.default_rng(0).normal(0, 0.02, 100)
    found = analyse(RATES, (losses + noise).tolist()).suggestion
    assert found is not None
    assert 0.005 < found < 0.02


@pytest.mark.parametrize("losses", [np.linspace(1, 3, 100).tolist(), [1.0] * 100, [1.0, 2.0], []])
def test_loss_that_never_falls_gives_no_suggestion(losses: list[float]) -> None:
    assert analyse(RATES[: len(losses)], losses).suggestion is None


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_range_test_stops_where_the_loss_explodes_and_draws_a_picture(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run("mlp", {"widths": [16]}, optimizer="sgd")
    found = range_test(config, dataset)
    assert found.suggestion is not None
    assert 1e-3 < found.suggestion < HIGHEST
    assert found.rates[0] == LOWEST
    assert len(found.rates) == len(found.losses) <= STEPS
    assert range_test(config, dataset) == found  # it depends on the seed alone
    draw_range_test(found, tmp_path / "new" / "lr.png", "a title")
    with Image.open(tmp_path / "new" / "lr.png") as image:
        colours = np.asarray(image.convert("RGB")).astype(np.int64) @ [1 << 16, 1 << 8, 1]
    assert {0x4477AA, 0xCC6677} <= set(np.unique(colours).tolist())


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_range_test_takes_the_settings_of_the_run(make_run: MakeRun) -> None:
    plain, dataset = make_run("mlp", {"widths": [16]}, batch_size=20, clip_norm=0.1)
    parts, _ = make_run("mlp", {"widths": [16]}, batch_size=20, clip_norm=0.1, accumulate=2)
    with pytest.warns(TrainingWarning, match="20 rows"):
        found = [range_test(config, dataset).losses for config in (plain, parts)]
    assert found[0] != found[1]
