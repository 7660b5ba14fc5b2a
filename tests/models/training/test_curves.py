from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normfold.models.errors import RunFolderError
from normfold.models.training.curves import draw_curves
from normfold.models.training.metrics import METRICS_NAME, EpochMetrics, append_metrics, read_metrics, rewrite_metrics


def epoch(number: int) -> EpochMetrics:
    return EpochMetrics(
        epoch=number,
        lr=0.1,
        train={"loss": 2 / number, "accuracy": 1 - 1 / number},
        validation={"loss": 3 / number, "accuracy": 1 - 1 / number},
        seconds=1,
    )


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 5])
def test_curves_are_a_png_with_lines(tmp_path: Path, epochs: int) -> None:
    draw_curves([epoch(number) for number in range(1, epochs + 1)], epochs, "accuracy", tmp_path / "c.png", "a title")
    with Image.open(tmp_path / "c.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.int64) @ [1 << 16, 1 << 8, 1]
    assert {0x4477AA, 0xCC6677} <= set(np.unique(pixels).tolist())


def test_metrics_are_read_up_to_the_given_epoch(tmp_path: Path) -> None:
    records = [epoch(number) for number in (1, 2, 3)]
    for record in records:
        append_metrics(tmp_path, record)
    assert read_metrics(tmp_path, 2) == records[:2]
    rewrite_metrics(tmp_path, records[:1])
    assert read_metrics(tmp_path, 1) == records[:1]
    assert len((tmp_path / METRICS_NAME).read_text().splitlines()) == 1


def test_metrics_with_a_missing_or_damaged_line_are_refused(tmp_path: Path) -> None:
    append_metrics(tmp_path, epoch(1))
    with pytest.raises(RunFolderError, match=r"lacks epochs in metrics.jsonl"):
        read_metrics(tmp_path, 2)
    with (tmp_path / METRICS_NAME).open("a") as file:
        file.write("{")
    with pytest.raises(RunFolderError, match=r"damaged metrics.jsonl"):
        read_metrics(tmp_path, 2)
